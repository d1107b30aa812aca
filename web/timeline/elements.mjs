/** Small makers of elements for the timeline's control. */
import { phrase } from "../messages.mjs";

const PATHS = {
  add: "M8 2v12M2 8h12",
  undo: "M5 3 2 6l3 3M2 6h7a4 4 0 0 1 0 8H6",
  redo: "m11 3 3 3-3 3m3-3H7a4 4 0 0 0 0 8h3",
  remove: "M2 4h12M6 4V2h4v2M4 4l1 10h6l1-10",
  text: "M3 3h10M8 3v10M6 13h4",
  close: "m3 3 10 10M13 3 3 13",
  disk: "M8 10V2M5 5l3-3 3 3M2 11v3h12v-3",
};
const SVG = "http://www.w3.org/2000/svg";

/** An element with a class, with properties, and with what is in it. */
export function make(tag, className, properties = {}, ...content) {
  const element = Object.assign(document.createElement(tag), { className, ...properties });
  element.append(...content.filter((part) => part != null));
  return element;
}

/** Set attributes; undefined or false takes one away. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
  return element;
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return set(svg, { viewBox: "0 0 16 16", "aria-hidden": true });
}

/** A button with an icon; shown: whether its words are to be seen, and not only read to those who do not see.
 *
 * The page leaves the keys of what says that it is a field alone; its own undo would follow each of ours else. */
export function button(name, key, act, shown = false) {
  const words = make("span", shown ? "" : "reelwire-tl-unseen");
  const element = make("button", "reelwire-tl-button", { type: "button", onclick: act }, icon(name), words);
  element.say = () => {
    words.textContent = phrase(key);
    element.title = shown ? "" : words.textContent;
  };
  element.say();
  return Object.defineProperty(element, "type", { value: "textarea" });
}

/** A field with its label. */
export function labelled(key, field, className = "") {
  const words = make("span", "reelwire-tl-label");
  const label = make("label", `reelwire-tl-field ${className}`, {}, words, field);
  label.say = (values) => (words.textContent = phrase(key, values));
  label.say();
  return label;
}
