/** Errors of this pack's nodes: the sentence in a toast, and on the node that caused it until the next run. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { translate } from "./messages.mjs";
import { isOurs, nodeOf, ourNodes, rootGraph } from "./nodes.mjs";
import { show } from "./panel.mjs";

const REFUSED = "custom_validation_failed"; // what a node's own check refuses before a run
const toasts = [];
let cause; // of the error that the page is about to hear of

export function listenForErrors() {
  api.addEventListener("reelwire.error", async ({ detail }) => {
    cause = { ...detail, sentence: detail.message.text };
    cause.sentence = await translate(detail.message);
  });
  // before the page's own listeners: what they show is then about the cause too
  api.addEventListener("execution_error", ({ detail }) => explain(detail), { capture: true });
  for (const event of ["promptQueueing", "execution_start"]) api.addEventListener(event, forget);
  rootGraph().events?.addEventListener("node:property:changed", ({ detail }) => {
    if (detail.property === "has_errors" && detail.newValue) refusedBeforeRun(app.extensionManager.lastNodeErrors);
  });
}

/** Show an error of one of our nodes, and name its cause in what the page goes on to say. */
function explain(detail) {
  if (!isOurs(detail.node_type)) return;
  const known = cause?.prompt_id === detail.prompt_id ? cause : undefined;
  const node = nodeOf(known?.node ?? detail.node_id);
  detail.exception_type = detail.exception_type?.split(".").pop();
  detail.exception_message = known?.sentence ?? detail.exception_message.trim();
  if (node && known) Object.assign(detail, { node_id: known.node, node_type: node.type });
  tell(node, detail.exception_message);
}

let seen;

/** The page marks these nodes itself; what it does not show are the words. */
async function refusedBeforeRun(errors) {
  if (!errors || errors === seen) return;
  seen = errors;
  for (const [id, { class_type, errors: found }] of Object.entries(errors)) {
    const ours = isOurs(class_type) ? found.filter(({ type }) => type === REFUSED) : [];
    const texts = ours.map(({ details, extra_info }) => details.replace(`${extra_info?.input_name} - `, ""));
    const sentences = await Promise.all([...new Set(texts)].map((text) => translate({ key: "", values: {}, text })));
    if (sentences.length && errors === seen) tell(nodeOf(id), sentences.join("\n"));
  }
}

function tell(node, sentence) {
  if (node) show(node, { error: sentence });
  const words = { summary: node?.getTitle() ?? "Reelwire", detail: sentence };
  const toast = { severity: "error", styleClass: "reelwire-toast", ...words };
  toasts.push(toast);
  app.extensionManager.toast.add(toast);
}

function forget() {
  cause = seen = undefined;
  for (const toast of toasts.splice(0)) app.extensionManager.toast.remove(toast);
  for (const node of ourNodes()) show(node, { error: "" });
}
