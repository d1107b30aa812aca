/** The prompts that wait, and what was decided of the others, as elements. */
import { sayer } from "./words.mjs";

const say = sayer([
  { key: "desk_waiting", text: "Waiting" },
  { key: "desk_decided", text: "Decided" },
  { key: "desk_empty", text: "No prompt waits." },
  { key: "desk_release", text: "Release" },
  { key: "desk_drop", text: "Drop" },
  { key: "desk_undo", text: "Undo" },
  { key: "desk_again", text: "Queue again" },
  { key: "desk_matched", text: "Holds: {matched}" },
  { key: "desk_held", text: "held {when}, queued {count|once|{count} times}" },
  { key: "desk_released", text: "released by {who}, {when}" },
  { key: "desk_dropped", text: "dropped by {who}, {when}" },
]);
const ACTIONS = { held: ["release", "drop"], released: ["again", "undo"], dropped: ["undo"] };
const time = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });

/** An element with a class and with what is in it; what is nothing is left out. */
export function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.filter(Boolean));
  return made;
}

export function button(words, label, act) {
  const made = Object.assign(element("button", "", words), { type: "button", onclick: act });
  made.setAttribute("aria-label", label);
  return made;
}

/** All prompts, those that wait first. decide(id, action, place of the button): is called when a button is pressed. */
export function list(prompts, decide) {
  const waiting = prompts.filter(({ state }) => state === "held");
  const decided = prompts.filter(({ state }) => state !== "held");
  const act = (id, action) => (event) => decide(id, action, placeOf(event.currentTarget));
  return element(
    "div",
    "",
    element("h4", "", `${say("desk_waiting")} (${waiting.length})`),
    waiting.length ? cards(waiting, act) : element("p", "reelwire-desk-said", say("desk_empty")),
    decided.length && element("h4", "", `${say("desk_decided")} (${decided.length})`),
    decided.length && cards(decided, act),
  );
}

const placeOf = (pressed) => [...pressed.closest(".reelwire-desk").querySelectorAll("button")].indexOf(pressed);

function cards(prompts, act) {
  return element("ul", "", ...prompts.map((prompt) => element("li", "", ...card(prompt, act))));
}

function card({ id, text, matched, state, count, held, decided, by }, act) {
  const values = { when: time(state === "held" ? held : decided), count, who: by };
  const actions = ACTIONS[state];
  const quote = element("blockquote", "", text);
  quote.tabIndex = 0; // a long one is scrolled by keyboard too
  return [
    quote,
    element("p", "reelwire-desk-matched", say("desk_matched", { matched: matched.join(", ") })),
    element("p", "reelwire-desk-said", say(`desk_${state}`, values)),
    element("div", "reelwire-desk-buttons", ...actions.map((action) => choice(action, text, act(id, action)))),
  ];
}

function choice(action, text, act) {
  const words = say(`desk_${action}`);
  return button(words, `${words}: ${text.slice(0, 60)}`, act);
}
