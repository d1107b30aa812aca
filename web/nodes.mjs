/** Which nodes are this pack's, and how they are found. */
import { app } from "../../scripts/app.js";

const PREFIX = "Reelwire";
export const isOurs = (type) => Boolean(type?.startsWith(PREFIX));

const VIDEOS = ["ReelwireDecodeToVideo", "ReelwireLongVideo", "ReelwireCompare"]; // nodes that end with one
export const endsWithVideo = (type) => VIDEOS.includes(type);

const NAMES_FILES = /^Reelwire(Load|LoRA)/; // nodes on which files are chosen, whose names are long
const ROOM = 400;

/** Let a new node be wide enough for the names of files beside their labels; a saved one keeps its size. */
export function makeRoomForNames(node) {
  if (NAMES_FILES.test(node.comfyClass)) node.setSize([Math.max(node.size[0], ROOM), node.size[1]]);
}

/** The graph that the page shows, with its subgraphs in it. */
export const rootGraph = () => app.rootGraph ?? app.graph;

/** Every node of this pack in the graph and in its subgraphs. */
export function ourNodes() {
  const graphs = [rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])];
  return graphs.flatMap((graph) => graph?.nodes ?? []).filter((node) => isOurs(node.type));
}

/** The node of this pack that runs under an id such as "3", or "7:3" in subgraph 7; undefined for other nodes. */
export function nodeOf(id) {
  let graph = rootGraph();
  let node;
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return isOurs(node?.type) ? node : undefined;
}

/** Under which name the page keeps what a node put out. */
export function outputName(node) {
  const { graph } = node;
  return !graph || graph === rootGraph() ? String(node.id) : `${graph.id}:${node.id}`;
}
