/** The timeline as a widget of ComfyUI's nodes, and on subgraphs that show it outside. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { Timeline } from "./control.mjs";
import { isWired, questionOf, readerOf } from "./graph.mjs";

const TYPE = "REELWIRE_TIMELINE"; // as nodes/timeline/inputs.py says beside the input, which is a STRING
const [LEAST_HEIGHT, LEAST_WIDTH, WIRED_HEIGHT, MARGIN] = [392, 480, 40, 8];
const EVERY = 250; // milliseconds between two looks at what is around the timelines
const shown = new Set(); // of weak references: nodes that are nowhere in a graph end of themselves

/** What the page calls to make the widget of an input. */
export const timelineWidgets = () => ({
  [TYPE]: (node, name, [, options = {}]) => {
    const widget = addTo(node, name, holder(options.default ?? ""));
    return { widget, minWidth: LEAST_WIDTH, minHeight: LEAST_HEIGHT };
  },
});

const holder = (value) => ({ get: () => value, set: (text) => (value = text) });

/** A widget on a node whose value is kept by {get, set}. */
function addTo(node, name, kept) {
  const changed = (text) => {
    kept.set(text);
    widget.callback?.(text, app.canvas, node);
  };
  const timeline = new Timeline(node, name, { changed, kept: capture });
  const height = () => (timeline.wired ? WIRED_HEIGHT : LEAST_HEIGHT);
  const widget = node.addDOMWidget(name, TYPE, timeline.element, {
    getValue: kept.get,
    setValue(text) {
      kept.set(text);
      timeline.take(text);
    },
    getMinHeight: height,
    hideOnZoom: false,
    margin: MARGIN,
  });
  timeline.value = kept;
  timeline.take(kept.get());
  listen(timeline);
  return widget;
}

function listen(timeline) {
  const { element } = timeline;
  element.addEventListener("wheel", (event) => {
    const scrolls = event.target.closest("textarea, .reelwire-tl-choices, .reelwire-tl-words");
    if (scrolls && scrolls.scrollHeight > scrolls.clientHeight && !event.ctrlKey) event.stopPropagation();
    else if (!LiteGraph.vueNodesMode) app.canvas.processMouseWheel(event);
  });
  const MIDDLE = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [name, act] of Object.entries(MIDDLE))
    element.addEventListener(name, (event) => {
      const isMiddle = name === "pointermove" ? event.buttons & 4 : event.button === 1;
      if (isMiddle && !LiteGraph.vueNodesMode) app.canvas[act](event); // which moves the canvas
    });
  shown.add(new WeakRef(timeline));
  watch();
}

/** Let the page's own undo know of what was done here. */
function capture() {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

// ---------------------------------------------------------------- what is around the timelines

let timer;

/** Look at the graph around each timeline that is on the screen, as its wires and widgets may change in many ways. */
function watch() {
  timer ??= setInterval(() => {
    for (const reference of shown) {
      try {
        if (!look(reference.deref())) shown.delete(reference);
      } catch (error) {
        shown.delete(reference); // said once; the text can still be written
        console.error("Reelwire: a timeline cannot see what is around it in this version of ComfyUI's page.", error);
      }
    }
  }, EVERY);
}

/** Whether a timeline is still there, after what it shows has followed what is around it. */
function look(timeline) {
  if (!timeline) return false;
  const { node, element, name } = timeline;
  if (node.graph?.getNodeById(node.id) !== node) return !timeline.wasThere;
  timeline.wasThere = true;
  takePlace(timeline, node, name);
  if (element.isConnected && !document.hidden && !app.configuringGraph) follow(timeline, node, name);
  return true;
}

/** Nodes 2.0 leaves the control of a node in its place when the page's own undo has made the node anew. */
function takePlace({ element }, node, name) {
  element.dataset.widget = name;
  if (element.isConnected || !LiteGraph.vueNodesMode || app.canvas.graph !== node.graph) return;
  document.querySelector(`[data-node-id="${node.id}"] .reelwire-timeline[data-widget="${name}"]`)?.replaceWith(element);
}

function follow(timeline, node, name) {
  if (timeline.value.get() !== timeline.text) timeline.take(timeline.value.get());
  const wired = Boolean(isWired(node, name));
  if (wired !== timeline.wired) rewire(timeline, wired);
  const reader = readerOf(node, name);
  const question = JSON.stringify({ timeline: timeline.text, ...questionOf(reader) });
  if (!wired && !timeline.asking && question !== timeline.asked) ask(timeline, reader, question);
}

/** Show a timeline that comes by a wire as a line alone; the node shrinks or grows by it, unless it was saved so. One
 * that was made with its wire, as of an API prompt, has the room of the whole control. */
function rewire(timeline, wired) {
  const { node } = timeline;
  const [, whole] = node.computeSize();
  const isNew = timeline.wired === undefined;
  timeline.wired = wired;
  timeline.draw();
  const isMade = isNew && wired && Math.abs(node.size[1] - whole) < 2;
  const grown = isNew && !isMade ? 0 : LEAST_HEIGHT - WIRED_HEIGHT;
  // Nodes 2.0 makes room for what is visible by itself, and asks for none for advanced inputs
  const least = LiteGraph.vueNodesMode ? 0 : node.computeSize()[1];
  const height = LiteGraph.vueNodesMode && isMade ? 0 : node.size[1] + (wired ? -grown : grown);
  if (grown) node.setSize([node.size[0], Math.max(height, least)]);
  node.setDirtyCanvas(true, true);
}

async function ask(timeline, reader, question) {
  timeline.asking = true;
  try {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: question };
    const answer = await api.fetchApi("/reelwire/timeline", request);
    const outlook = answer.ok ? await answer.json() : {};
    timeline.asked = question;
    if (JSON.parse(question).timeline === timeline.text) timeline.surround(reader, outlook);
  } catch {
    timeline.asked = question; // the server is not there: what is known is shown
  } finally {
    timeline.asking = false;
  }
}

// ---------------------------------------------------------------- subgraphs

/** Let a subgraph that shows a timeline outside show it as one: ComfyUI itself knows what to do with texts alone. */
export function showOnSubgraph(node) {
  const own = node.createPromotedHostWidget;
  if (!node.isSubgraphNode?.() || !own || !node._projectPromotedWidget) return;
  node.createPromotedHostWidget = function (input, id, source) {
    if (source?.type !== TYPE || !this.graph || this.graph.getNodeById(this.id) !== this)
      return own.apply(this, arguments);
    const value = this._projectPromotedWidget(input);
    return addTo(this, input.name, { get: () => value.value ?? "", set: (text) => (value.value = text) });
  };
}
