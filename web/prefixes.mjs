/** File name prefixes: %Node.widget% is written out as the page does it for its own nodes. Dates are left to the
 * server: an unfinished render is found again by its prefix. */
import { rootGraph } from "./nodes.mjs";

const DATE = /(%date:[^%]+%)/;

/** What a prefix is sent as. */
export function writtenOut(prefix) {
  const replace = window.comfyAPI?.utils?.applyTextReplacements;
  const write = (text) => (text && replace ? replace(rootGraph(), text) : text);
  return prefix.split(DATE).map((part, place) => (place % 2 ? part : write(part))).join("");
}

/** Let a node send its prefix so. */
export function writePrefixOut(node) {
  const widget = node.widgets?.find(({ name }) => name === "filename_prefix");
  if (widget) widget.serializeValue = () => writtenOut(String(widget.value ?? ""));
}
