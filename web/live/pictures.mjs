/** What a node shows of what it makes while it runs: a still, and a moving picture; and that both are gone when the run
 * ends before the node does. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { endsWithVideo, isOurs, outputName, rootGraph } from "../nodes.mjs";
import { show } from "../panel.mjs";
import { hear } from "../prompts.mjs";

const pictured = new Map(); // id of a node that runs -> the last that came of it: {prompt_id, live}
let progress = { nodes: {} };
let still = "";

export function listenForPictures() {
  api.addEventListener("progress_state", ({ detail }) => (progress = detail));
  api.addEventListener("reelwire.live", ({ detail }) => come(detail.node, { ...detail, live: detail }));
  api.addEventListener("b_preview_with_metadata", ({ detail: { displayNodeId: id, jobId: prompt_id, blob } }) => {
    hideOther(id);
    hear({ prompt_id }, id, (node) => {
      pictured.set(id, { live: pictured.get(id)?.live, prompt_id });
      if (node) showStill(node, blob, id);
    });
  });
  for (const end of ["execution_error", "execution_interrupted"])
    api.addEventListener(end, ({ detail: { prompt_id } }) => leave((picture) => picture.prompt_id === prompt_id));
  api.addEventListener("execution_success", ({ detail }) => hear(detail, undefined, () => forget(detail.prompt_id)));
  // a server that ended in the middle of a run tells of no end
  api.addEventListener("status", ({ detail }) => detail?.exec_info?.queue_remaining === 0 && leave(() => true));
}

/** A node that runs anew, or has ended: what it shows is nobody's to take away. */
export const done = (id) => pictured.delete(String(id));

/** The page drops a node's preview when it hears that the node starts, and never when it ends: tell it so. */
export function dropPreview(id, name) {
  const { prompt_id, nodes } = progress;
  if (!app.nodePreviewImages[name] || !nodes[id]) return;
  for (const told of [{}, { [id]: { ...nodes[id], state: "running" } }, nodes])
    api.dispatchCustomEvent("progress_state", { prompt_id, nodes: told });
}

/** Show again what was shown of runs under way, as another workflow was in front. */
export function showAgain() {
  for (const [id, { live }] of pictured) if (live) hear(live, id, (node) => node && showLive(node, live));
}

function come(id, picture) {
  const keep = () => pictured.set(id, picture);
  hear(picture, id, (node) => (keep(), node && showLive(node, picture.live)), keep);
}

const showLive = (node, live) => show(node, { live, video: undefined });

/** On a subgraph Nodes 2.0 would take its own still for the video. */
function showStill(node, blob, id) {
  if (endsWithVideo(node.type) && node.graph !== rootGraph()) dropPreview(id, outputName(node));
  URL.revokeObjectURL(still);
  still = URL.createObjectURL(blob);
  show(node, { preview: still, video: undefined });
}

/** Nodes 2.0 puts each still on a node itself too, and on one of the same id in any workflow that is in front. The
 * element is used again for a node of that id in another workflow, which may be nobody's of ours. */
function hideOther(id) {
  const name = String(id).split(":").at(-1);
  const node = app.canvas.graph?.getNodeById(name);
  document.querySelector(`[data-node-id="${name}"]`)?.toggleAttribute("data-reelwire", isOurs(node?.type));
}

/** Take away what nodes show that will not end. */
function leave(isOver) {
  hear({}, undefined, () => {
    for (const [id, picture] of pictured)
      if (isOver(picture)) hear(picture, id, (node) => drop(id, node), () => done(id));
  });
}

function drop(id, node) {
  if (!pictured.delete(id) || !node) return;
  show(node, { live: undefined, preview: undefined });
  dropPreview(id, outputName(node));
}

function forget(prompt) {
  for (const [id, { prompt_id }] of pictured) if (prompt_id === prompt) pictured.delete(id);
}
