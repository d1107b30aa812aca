/** Whom a timeline is for: the Long Video that reads it, the loader behind that, and what its inputs are. */
import { loads } from "../widgets.mjs";
import { rootGraph } from "../nodes.mjs";

const [LONG, OWN, NAME] = ["ReelwireLongVideo", "ReelwireTimeline", "timeline"];
const MOST_HOPS = 50;
const [INPUTS, OUTPUTS] = ["-10", "-20"]; // the ids that a subgraph's own ends have in its links, as text or number
const LINKED = ["keyframes", "source", "mask", "extend", "audio"]; // inputs of Long Video that links bring

// a place is {node, hosts}: hosts are the subgraph nodes around it, the outermost first

/** The place of a node; of a subgraph that stands several times, of the first. */
export function placeOf(node) {
  const hosts = [];
  for (let graph = node.graph; graph && graph !== rootGraph(); graph = hosts[0].graph) {
    const host = allNodes().find((candidate) => candidate.subgraph === graph);
    if (!host || hosts.includes(host)) return undefined;
    hosts.unshift(host);
  }
  return { node, hosts };
}

function allNodes() {
  const graphs = [rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])];
  return graphs.flatMap((graph) => graph?.nodes ?? []);
}

/** The Long Video that reads a widget of a node: its own, or one behind a wire or inside of a subgraph. */
export function readerOf(node, name) {
  const place = placeOf(node);
  if (!place || node.comfyClass === LONG) return place;
  if (node.comfyClass === OWN) return behindOutput(place, 0);
  const slot = node.subgraph?.inputs.findIndex((input) => input.name === name) ?? -1;
  return slot < 0 ? undefined : behindSubgraphInput({ node, hosts: place.hosts }, slot, 0);
}

function behindSubgraphInput({ node, hosts }, slot, hops) {
  const inside = node.subgraph;
  return firstOf(inside.inputs[slot]?.linkIds, (id) => target(inside, id, [...hosts, node], hops + 1));
}

function behindOutput({ node, hosts }, slot, hops = 0) {
  return firstOf(node.outputs?.[slot]?.links, (id) => target(node.graph, id, hosts, hops + 1));
}

/** The Long Video at the end of a link, or further on. */
function target(graph, id, hosts, hops) {
  const link = graph.getLink(id);
  if (!link || hops > MOST_HOPS) return undefined;
  if (String(link.target_id) === OUTPUTS)
    return hosts.length ? behindOutput(outer(hosts), link.target_slot, hops) : undefined;
  const node = graph.getNodeById(link.target_id);
  const input = node?.inputs?.[link.target_slot];
  if (node?.subgraph) return behindSubgraphInput({ node, hosts }, link.target_slot, hops);
  if (node?.comfyClass === LONG) return input.name === NAME ? { node, hosts } : undefined;
  if (node?.comfyClass === OWN) return input.name === NAME ? behindOutput({ node, hosts }, 0, hops) : undefined;
  return node?.isVirtualNode ? behindOutput({ node, hosts }, 0, hops) : undefined;
}

/** The subgraph node around a place, as a place of its own. */
const outer = (hosts) => ({ node: hosts.at(-1), hosts: hosts.slice(0, -1) });

function firstOf(ids, find) {
  for (const id of ids ?? []) {
    const found = find(id);
    if (found) return found;
  }
}

/** What comes to an input: {node, hosts, slot} at the other end of its wire, or {widget} that holds its value. */
function sourceOf({ node, hosts }, name, hops = 0) {
  const input = node.inputs?.find((candidate) => candidate.name === name);
  const link = input?.link == null ? undefined : node.graph.getLink(input.link);
  if (!link) return { widget: node.widgets?.find((widget) => widget.name === name) };
  if (hops > MOST_HOPS) return undefined;
  if (String(link.origin_id) === INPUTS) {
    const own = node.graph.inputs?.[link.origin_slot]?.name;
    return hosts.length ? sourceOf(outer(hosts), own, hops + 1) : undefined;
  }
  return made({ node: node.graph.getNodeById(link.origin_id), hosts }, link.origin_slot, hops);
}

/** The same of an output: of a subgraph's, what makes it inside. */
function made(place, slot, hops) {
  const { node, hosts } = place;
  if (!node?.subgraph || hops > MOST_HOPS) return node && { ...place, slot };
  const link = node.subgraph.getLink(node.subgraph.outputs[slot]?.linkIds?.[0]);
  const inner = { node: node.subgraph.getNodeById(link?.origin_id), hosts: [...hosts, node] };
  return link && made(inner, link.origin_slot, hops + 1);
}

/** Whether something is wired to an input. */
export const isWired = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null);

/** The value of an input: its widget's, or that of the one number or text at the other end of its wire. */
export function valueOf(place, name) {
  const source = sourceOf(place, name);
  if (source?.widget) return source.widget.value;
  const [widget] = source?.node?.widgets ?? [];
  return widget?.name === "value" ? widget.value : undefined;
}

/** The loader of the model that comes to a place: {type, inputs}; undefined where there is none. */
function loaderOf(place) {
  for (let hops = 0; place && hops < MOST_HOPS; hops++) {
    const { node } = place;
    if (loads(node.constructor?.nodeData)) return { type: node.comfyClass, inputs: widgetsOf(place) };
    const named = node.inputs?.find(({ name }) => name === "model") ?? node.inputs?.[0];
    const source = named && sourceOf(place, named.name);
    place = source?.node && source;
  }
}

/** The values of a place's widgets by their names. */
function widgetsOf(place) {
  const names = (place.node.widgets ?? []).filter(({ serialize }) => serialize !== false).map(({ name }) => name);
  const values = names.map((name) => [name, valueOf(place, name)]);
  return Object.fromEntries(values.filter(([, value]) => ["string", "number", "boolean"].includes(typeof value)));
}

/** What the server is asked about the Long Video at a place. */
export function questionOf(place) {
  if (!place) return { loader: null, inputs: {}, awaited: [] };
  const { timeline: _, filename_prefix: __, ...inputs } = widgetsOf(place);
  const awaited = LINKED.filter((name) => isWired(place.node, name));
  return { loader: loaderOf(place) ?? null, inputs, awaited };
}

/** Let the Long Video at a place be so many frames long; whether it is its own widget that says so. */
export function setFrames(place, frames) {
  const widget = place && sourceOf(place, "frames")?.widget;
  if (!widget || widget.value === frames) return;
  widget.value = frames;
  widget.callback?.(frames);
}

export const canSetFrames = (place) => Boolean(place && sourceOf(place, "frames")?.widget);
