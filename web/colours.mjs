/** Colours of the pack's types on slots and wires, in both renderers. */
import { app } from "../../scripts/app.js";

const COLOURS = {
  VIDEO_MODEL: "#8c6cff",
  VIDEO_CONDITIONING: "#ff7a1a",
  KEYFRAMES: "#12b8c4",
  VIDEO_CONTROL: "#2fae5f",
};

/** Nodes 2.0 reads them from the style sheet; LiteGraph from tables that each change of the theme empties. */
export function keepTypeColours() {
  const sheet = document.createElement("style");
  const lines = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
  sheet.textContent = `:root { ${lines.join(" ")} }`;
  document.head.append(sheet);
  // a theme that is chosen is written into the root's style
  new MutationObserver(fillTables).observe(document.documentElement, { attributeFilter: ["style"] });
  fillTables();
}

function fillTables() {
  const { canvas } = app;
  const tables = [canvas?.constructor.link_type_colors, canvas?.default_connection_color_byType].filter(Boolean);
  const empty = tables.filter((table) => Object.keys(COLOURS).some((type) => table[type] !== COLOURS[type]));
  for (const table of empty) Object.assign(table, COLOURS);
  if (empty.length) canvas.setDirty(true, true);
}
