import { app } from "../../scripts/app.js";
import { isOurs } from "./nodes.mjs";
import { conditions, familyOf, idle, initialValue, loads } from "./widgets.mjs";

const definitions = new Map(); // node type -> its definition, of nodes with widgets that do not always count
const families = new Map(); // node type -> the family of the models that it loads
let loading = false; // a saved graph brings its nodes' sizes along

/** Show the widgets that count and hide those that do nothing; the node's height follows, but for `keepsSize`. */
function refresh(node, keepsSize = loading) {
  const definition = definitions.get(node.comfyClass);
  if (!definition || !node.widgets) return;
  const family = familyOf(node, families);
  const before = node.computeSize()[1];
  let changed = false;
  for (const [name, needed] of Object.entries(conditions(definition))) {
    const widget = node.widgets.find((candidate) => candidate.name === name);
    if (!widget) continue;
    const hidden = idle(node, widget, needed, initialValue(definition, name), family);
    changed ||= Boolean(widget.hidden) !== hidden;
    widget.hidden = hidden;
    // what Nodes 2.0 reads: its store keeps the options of the first widget of this name in the graph
    for (const options of [widget.options, widget._state?.options]) if (options) options.hidden = hidden;
  }
  if (changed) node.widgets.push(node.widgets.pop()); // Nodes 2.0 looks anew at a list that changed
  if (changed) fit(node, keepsSize ? 0 : node.computeSize()[1] - before);
}

/** Let a node grow or shrink, and never be too small. Nodes 2.0 makes room by itself. */
function fit(node, growth) {
  const growsItself = app.extensionManager.setting.get("Comfy.VueNodes.Enabled");
  const height = Math.max(node.size[1] + growth, node.computeSize()[1]);
  if (height < node.size[1] || !growsItself) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

/** All nodes of a graph: what one shows can depend on the loader at the other end of its wires. */
const refreshAll = (graph) => graph?.nodes.forEach((node) => refresh(node));

/** Do something after each call of a method of this one object. */
function after(target, name, act) {
  const own = target[name];
  target[name] = function (...args) {
    const result = own?.apply(this, args);
    act();
    return result;
  };
}

app.registerExtension({
  name: "reelwire.hideWidgets",

  beforeRegisterNodeDef(_type, definition) {
    if (!isOurs(definition.name)) return;
    if (Object.keys(conditions(definition)).length) definitions.set(definition.name, definition);
    if (loads(definition)) families.set(definition.name, loads(definition));
  },

  nodeCreated(node) {
    if (!isOurs(node.comfyClass)) return;
    const takesModel = node.inputs?.some((input) => input.type === "VIDEO_MODEL");
    if (takesModel || definitions.has(node.comfyClass))
      after(node, "onConnectionsChange", () => refreshAll(node.graph));
    if (!definitions.has(node.comfyClass)) return;
    for (const widget of node.widgets ?? []) after(widget, "callback", () => refresh(node));
    after(node, "onConfigure", () => refresh(node, true));
    refresh(node);
  },

  beforeConfigureGraph() {
    loading = true;
  },

  afterConfigureGraph() {
    for (const graph of [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])]) refreshAll(graph);
    loading = false;
  },
});
