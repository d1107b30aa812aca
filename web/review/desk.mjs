/** The sidebar in which a person decides of prompts that wait: there once a graph has the node, or a prompt waits. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { loadTexts, sayNow } from "../messages.mjs";
import { element, list } from "./list.mjs";
import { queueAgain } from "./again.mjs";
import { sayer } from "./words.mjs";

const [NODE, TAB, ROUTE] = ["ReelwirePromptReview", "reelwire-review", "/reelwire/review"];
const TEXTS = [
  { key: "desk_title", text: "Review" },
  { key: "desk_open", text: "Open the review list" },
  { key: "desk_new", text: "A prompt is held for review." },
  { key: "desk_done_release", text: "Released: it passes at the next run." },
  { key: "desk_done_drop", text: "Dropped: it stays refused." },
  { key: "desk_done_undo", text: "It waits again." },
  { key: "desk_done_again", text: "The run that it has ended is queued again." },
  { key: "desk_no_run", text: "ComfyUI does not know the run any more that it has ended: press Run in its workflow." },
  { key: "desk_failed", text: "The list could not be changed: {error}" },
  { key: "desk_failed_again", text: "It could not be queued: {error}" },
  { key: "desk_unread", text: "The list could not be read: {error}" },
];
let shown; // what the sidebar is drawn into, while it is open
let isOffered = false;

const say = sayer(TEXTS);

/** Offer the sidebar where something was held already; later, once something is. */
export async function listenForReview() {
  api.addEventListener("reelwire.review", heard);
  app.ui.settings?.addEventListener?.("Comfy.Locale.change", () => draw(""));
  const { prompts } = await read();
  if (prompts.length) await offer();
}

async function heard({ detail }) {
  await offer();
  if (shown) return draw();
  if (!detail.own && detail.held) tell("desk_new", "info"); // whose run it is reads the error
}

/** Put a button on the node that opens the list. */
export async function addReviewButton(node) {
  if (node.comfyClass !== NODE) return;
  await offer();
  const widget = node.addWidget("button", say("desk_open"), null, open, { serialize: false });
  widget.serialize = false;
}

function open() {
  if (shown) shown.querySelector("button")?.focus();
  else app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB}`);
}

async function offer() {
  await loadTexts();
  if (isOffered) return;
  isOffered = true;
  const title = say("desk_title");
  app.extensionManager.registerSidebarTab({
    ...{ id: TAB, icon: "pi pi-verified", title, label: title, tooltip: title, type: "custom" },
    render: begin,
    destroy: () => (shown = undefined),
  });
}

function begin(container) {
  shown = container;
  return draw();
}

/** Draw the list. said: what was done, else what was said last; focus: the place among its buttons of the one that has
 * the keyboard then, else the one that has it now. */
async function draw(said, focus) {
  const box = shown;
  const { prompts, error } = await read();
  if (box !== shown || !box) return;
  const words = said ?? box.querySelector("[role=status]")?.textContent ?? "";
  const place = focus ?? [...box.querySelectorAll("button")].indexOf(document.activeElement);
  const live = element("p", "reelwire-desk-said", words);
  live.setAttribute("role", "status");
  const again = error && element("p", "reelwire-error", say("desk_unread", { error }));
  const title = element("h3", "", say("desk_title"));
  const body = element("section", "reelwire-desk", title, live, again, list(prompts, decide));
  box.replaceChildren(body);
  const buttons = [...body.querySelectorAll("button")];
  if (place >= 0) buttons[Math.min(place, buttons.length - 1)]?.focus();
}

async function decide(id, action, place) {
  if (action === "again") return again(id, place);
  const request = { method: "POST", headers: { "Content-Type": "application/json" } };
  try {
    const answer = await api.fetchApi(ROUTE, { ...request, body: JSON.stringify({ id, action }) });
    if (answer.ok) return draw(say(`desk_done_${action}`), place);
    const { error, message } = await answer.json().catch(() => ({ error: answer.statusText }));
    return draw(say("desk_failed", { error: message ? sayNow(message) : error }), place);
  } catch (error) {
    return draw(say("desk_failed", { error: error.message }), place); // the server is down
  }
}

/** Queue the run that a prompt has ended, which now passes. */
async function again(id, place) {
  try {
    return draw(say((await queueAgain(id)) ? "desk_done_again" : "desk_no_run"), place);
  } catch (error) {
    return draw(say("desk_failed_again", { error: error.message }), place);
  }
}

async function read() {
  try {
    const answer = await api.fetchApi(ROUTE);
    const content = await answer.json();
    if (answer.ok) return content;
    return { prompts: [], error: content.message ? sayNow(content.message) : content.error };
  } catch (error) {
    return { prompts: [], error: error.message };
  }
}

function tell(key, severity) {
  app.extensionManager.toast.add({ severity, summary: "Reelwire", detail: say(key), life: 8000 });
}
