/** The table of a comparison on its node, each word in the page's language. */
import { translateAll } from "../messages.mjs";

/** The table as an element, a column for each video: the few that are compared then fit on the node. What does not is
 * scrolled sideways. */
export async function drawTable({ head, rows }, node) {
  const [names, ...videos] = await Promise.all([head, ...rows].map((cells) => translateAll(cells, node)));
  const [titles, ...lines] = names.map((name, at) => [name, ...videos.map((cells) => cells[at])]);
  const table = document.createElement("table");
  table.createTHead().append(row(titles, () => ["th", "col"]));
  table.createTBody().append(...lines.map((cells) => row(cells, (at) => (at ? ["td"] : ["th", "row"]))));
  return frame(table, titles);
}

/** What is cut off is scrolled to by keyboard too. */
function frame(table, titles) {
  const box = document.createElement("div");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", titles.join(", "));
  box.append(table);
  return box;
}

function row(cells, kind) {
  const line = document.createElement("tr");
  line.append(...cells.map((text, at) => cell(text, ...kind(at))));
  return line;
}

function cell(textContent, tag, scope) {
  const element = Object.assign(document.createElement(tag), { textContent });
  if (scope) element.scope = scope;
  return element;
}
