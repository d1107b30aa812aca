/** The table of a comparison on its node, each word in the page's language. */
import { translateAll } from "../messages.mjs";

const FIRST_NUMBER = 3; // the columns from this one on are numbers

/** The table as an element, to be scrolled sideways where the node is narrow. */
export async function drawTable({ head, rows }, node) {
  const [names, ...lines] = await Promise.all([head, ...rows].map((cells) => translateAll(cells, node)));
  const table = document.createElement("table");
  table.createTHead().append(row(names, () => ["th", "col"]));
  table.createTBody().append(...lines.map((cells) => row(cells, (at) => (at ? ["td"] : ["th", "row"]))));
  return frame(table, names);
}

/** What is cut off is scrolled to by keyboard too. */
function frame(table, names) {
  const box = document.createElement("div");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", names.join(", "));
  box.append(table);
  return box;
}

function row(cells, kind) {
  const line = document.createElement("tr");
  line.append(...cells.map((text, at) => cell(text, at, ...kind(at))));
  return line;
}

function cell(textContent, at, tag, scope) {
  const element = Object.assign(document.createElement(tag), { textContent });
  if (scope) element.scope = scope;
  if (at >= FIRST_NUMBER) element.className = "reelwire-number";
  return element;
}
