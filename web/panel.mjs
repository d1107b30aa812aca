/** The panel of a node: its error, picture or video, chart, table and words; there while there is something to show. */
import { app } from "../../scripts/app.js";
import { filmOf } from "./live/film.mjs";
import { playOn } from "./playing.mjs";

const [NAME, MARGIN] = ["reelwire_panel", 8];
const MONOSPACED = ["ReelwireEstimate"]; // nodes whose words are a table
// an empty panel stays for so many milliseconds, as a node that runs anew soon says something: of each widget that
// comes and goes the page keeps a row of Nodes 2.0 for good, and the node would be drawn smaller for a moment
const LINGERS = 2000;
const panels = new WeakMap();

const isThere = node => node.graph?.getNodeById(node.id) === node;

/** Change what a node shows: {error, live, preview, video, chart, table, lines}; an empty value takes a part away. */
export function show(node, changes) {
  if (!isThere(node)) return; // it was taken away while the words were looked up
  if (!panels.has(node)) panels.set(node, new Panel(node));
  panels.get(node).show(changes);
}

/** A saved node is as large as without its panel, which comes back when there is something to show. */
export function leaveOutPanel(node, saved) {
  const panel = panels.get(node);
  if (panel?.grown && saved.size) saved.size = [saved.size[0], panel.heightWithout(saved.size[1])];
}

class Panel {
  height = 0;
  parts = {};

  constructor(node) {
    this.node = node;
    this.element = block("reelwire-panel", this.content = block("reelwire-content"));
    this.content.classList.toggle("reelwire-table", MONOSPACED.includes(node.type));
    this.element.addEventListener("wheel", (event) => LiteGraph.vueNodesMode || app.canvas.processMouseWheel(event));
    new ResizeObserver(() => this.fit()).observe(this.content);
  }

  /** Whether the node is larger by the panel. */
  get grown() {
    return Boolean(this.widget);
  }

  heightWithout(height) {
    return LiteGraph.vueNodesMode ? this.ownHeight() ?? height : height - this.height;
  }

  /** The height of a node in Nodes 2.0 without its panel. What the page keeps is the least that it may have, whatever
   * grows in it; a person who changes that does so with the panel in sight. */
  ownHeight() {
    const box = document.querySelector(`[data-node-id="${this.node.id}"]`);
    const kept = parseFloat(box?.style.getPropertyValue("--node-height")) - LiteGraph.NODE_TITLE_HEIGHT;
    if (!this.grown) this.before = this.node.size[1];
    else if (kept && kept !== this.kept) this.before = kept - this.height;
    if (kept) this.kept = kept;
    return this.before;
  }

  show(changes) {
    this.ownHeight(); // noted before it changes
    for (const [name, value] of Object.entries(changes)) {
      const part = value?.length === 0 || !value ? undefined : DRAW[name](value, this.parts[name]);
      if (part !== this.parts[name]) this.parts[name] = part;
    }
    const { error, live, preview, video, chart, table, lines } = this.parts;
    const shown = [error, live ?? preview ?? video, chart, table, lines].filter(Boolean);
    this.place(shown);
    clearTimeout(this.leaving);
    if (shown.length) this.add();
    else if (this.widget) this.leaving = setTimeout(() => this.leave(), LINGERS);
  }

  /** Put these elements into the content; what is there stays in its place, as what moves there would begin anew. */
  place(shown) {
    for (const part of [...this.content.children]) if (!shown.includes(part)) part.remove();
    for (const [i, part] of shown.entries())
      if (this.content.children[i] !== part) this.content.insertBefore(part, this.content.children[i] ?? null);
  }

  add() {
    if (this.widget) return;
    const height = () => this.height;
    const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: height, getMaxHeight: height };
    this.widget = this.node.addDOMWidget(NAME, "reelwire", this.element, options);
    this.widget.serialize = false;
  }

  /** Go, if the node and its panel are there still. */
  leave() {
    if (isThere(this.node) && this.node.widgets?.includes(this.widget)) this.remove();
  }

  remove() {
    this.node.removeWidget(this.widget);
    this.widget = undefined;
    this.resize(0);
  }

  /** Make the node larger or smaller by what its content grew; Nodes 2.0 does that itself. */
  fit() {
    const inside = this.content.offsetHeight; // 0 while it is not on the screen
    if (this.widget && inside) this.resize(inside + 2 * MARGIN);
  }

  resize(height) {
    const grown = height - this.height;
    this.height = height;
    if (!grown) return;
    const [width, old] = this.node.size;
    if (!LiteGraph.vueNodesMode) this.node.setSize([width, old + grown]);
    app.canvas.setDirty(true, true);
  }
}

/** How each part is made of its value, or of what is there already. */
const DRAW = {
  error: (text) => block("reelwire-error", text),
  live: filmOf,
  preview: (url, old) => Object.assign(old ?? new Image(), { src: url, className: "reelwire-picture" }),
  video: (url, old) => (old?.getAttribute("src") === url ? old : videoOf(url)),
  chart: (figure) => block("reelwire-chart", figure),
  table: (box) => Object.assign(box, { className: "reelwire-figures" }),
  lines: (texts) => block("reelwire-words", ...texts.map((text) => block("", text))),
};

const isImage = (url) => /filename=[^&]*\.gif(&|$)/.test(url);

function videoOf(url) {
  if (isImage(url)) return Object.assign(new Image(), { src: url, className: "reelwire-picture" });
  const video = Object.assign(document.createElement("video"), { className: "reelwire-picture" });
  Object.assign(video, { src: url, muted: true, loop: true, autoplay: true, controls: true, playsInline: true });
  return playOn(video);
}

function block(className, ...content) {
  const element = Object.assign(document.createElement("div"), { className });
  element.append(...content);
  return element;
}
