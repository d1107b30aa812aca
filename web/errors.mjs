/** Errors of this pack's nodes: the sentence in a toast, and on the node that caused it until the next press of Run. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { refusalOf, sayNow, translateAll } from "./messages.mjs";
import { isOurs, nodeOf, ourNodes, rootGraph } from "./nodes.mjs";
import { show } from "./panel.mjs";
import { isFromHere } from "./prompts.mjs";
import { addToast } from "./toasts.mjs";

const REFUSED = "custom_validation_failed"; // what a node's own check refuses before a run
const toasts = new Set();
let cause; // of the error that the page is about to hear of

export function listenForErrors() {
  api.addEventListener("reelwire.error", ({ detail }) => (cause = detail));
  // the page keeps this object and draws later: what it shows is then about the cause too
  api.addEventListener("execution_error", ({ detail }) => explain(detail), { capture: true });
  api.addEventListener("promptQueueing", forget);
  rootGraph().events?.addEventListener("node:property:changed", ({ detail }) => {
    if (detail.property === "has_errors" && detail.newValue) refusedBeforeRun(app.extensionManager.lastNodeErrors);
  });
}

/** Show an error of one of our nodes, and name its cause in what the page goes on to say. */
function explain(detail) {
  if (!isOurs(detail.node_type)) return;
  const known = cause?.prompt_id === detail.prompt_id ? cause : undefined;
  const node = isFromHere(known ?? detail) ? nodeOf(known?.node ?? detail.node_id) : undefined;
  const message = known?.message ?? { key: "", values: {}, text: detail.exception_message.trim() };
  detail.exception_type = detail.exception_type?.split(".").pop();
  detail.exception_message = sayNow(message, node);
  if (node && known) Object.assign(detail, { node_id: known.node, node_type: node.type });
  tell(node, [message]);
}

let seen;

/** The page marks these nodes itself; what it does not show are the words. */
async function refusedBeforeRun(errors) {
  if (!errors || errors === seen) return;
  seen = errors;
  for (const [id, { class_type, errors: found }] of Object.entries(errors)) {
    const ours = isOurs(class_type) ? found.filter(({ type }) => type === REFUSED) : [];
    const texts = ours.map(({ details, extra_info }) => details.replace(`${extra_info?.input_name} - `, ""));
    const messages = await Promise.all([...new Set(texts)].map(refusalOf));
    if (messages.length && errors === seen) tell(nodeOf(id), messages);
  }
}

/** Tell it at once, and again in the page's language where its texts come late. */
async function tell(node, messages) {
  const sentence = messages.map((message) => sayNow(message, node)).join("\n");
  const toast = put(node, sentence);
  const translated = (await translateAll(messages, node)).join("\n");
  if (translated === sentence || !toasts.has(toast)) return;
  drop(toast);
  put(node, translated);
}

/** The toast that says it; another one that says the same gives way to it. */
function put(node, sentence) {
  const toast = { summary: node?.getTitle() ?? "Reelwire", detail: sentence };
  if (node) show(node, { error: sentence });
  [...toasts].filter(({ summary, detail }) => summary === toast.summary && detail === sentence).forEach(drop);
  toasts.add(toast);
  toast.remove = addToast(toast, () => toasts.delete(toast));
  return toast;
}

function drop(toast) {
  toasts.delete(toast);
  toast.remove();
}

function forget() {
  cause = seen = undefined;
  [...toasts].forEach(drop);
  for (const node of ourNodes()) show(node, { error: "" });
}
