/** The keys of a timeline: all that the mouse can do, on the entry that has the focus. */
import { createKeybindingsHandler } from "../vendor/tinykeys.mjs";
import { picturesOf, promptsOf } from "./story.mjs";

const TEXTS = ["text", "search", "number", "textarea"]; // fields with an undo, a copy and arrows of their own

export function listenForKeys(timeline) {
  const { element } = timeline;
  const everywhere = bound({
    "$mod+z": () => timeline.undo(-1),
    "$mod+Shift+z": () => timeline.undo(1),
    "$mod+y": () => timeline.undo(1),
  });
  const onEntry = bound(entryKeys(timeline));
  const onEnd = bound(endKeys(timeline));
  element.addEventListener("keydown", (event) => {
    if (TEXTS.includes(event.target.type) && event.target.tagName !== "BUTTON") return;
    if (event.key === "Escape") timeline.giveUp?.();
    everywhere(event);
    const handle = event.target.closest(".reelwire-tl-handle");
    if (handle) (handle.closest(".reelwire-tl-end") ? onEnd : onEntry)(event);
  });
  element.addEventListener("focusin", ({ target }) => {
    const entry = target.closest(".reelwire-tl-lane [data-index]");
    if (entry)
      timeline.select(
        entry.parentElement === timeline.axis.prompts ? "prompts" : "keyframes",
        Number(entry.dataset.index),
      );
  });
  // what moves a slider without keys, as a screen reader does
  element.addEventListener("input", ({ target }) => {
    if (!target.classList.contains("reelwire-tl-handle")) return;
    const by = Math.sign(Number(target.value) - Number(target.dataset.position));
    if (by) (target.closest(".reelwire-tl-end") ? moveEnd : move)(timeline, by * timeline.scale.step);
    else timeline.draw();
  });
}

/** A handler of keys that lets neither the browser nor the page do what they do with them. */
function bound(table) {
  const entries = Object.entries(table).map(([keys, act]) => [
    keys,
    (event) => {
      event.preventDefault();
      event.stopPropagation();
      act();
    },
  ]);
  return createKeybindingsHandler(Object.fromEntries(entries));
}

function entryKeys(timeline) {
  const step = () => timeline.scale.step;
  const second = () => Math.max(timeline.scale.ofSeconds(1), timeline.scale.step);
  return {
    ArrowLeft: () => move(timeline, -step()),
    ArrowRight: () => move(timeline, step()),
    "Shift+ArrowLeft": () => move(timeline, -second()),
    "Shift+ArrowRight": () => move(timeline, second()),
    "Alt+ArrowLeft": () => moveNext(timeline, -step()),
    "Alt+ArrowRight": () => moveNext(timeline, step()),
    ArrowUp: () => strengthen(timeline, 0.05),
    ArrowDown: () => strengthen(timeline, -0.05),
    Home: () => timeline.moveTo(0),
    End: () => timeline.moveTo(timeline.scale.last),
    PageUp: () => move(timeline, second()),
    PageDown: () => move(timeline, -second()),
    Enter: () => timeline.write(),
    F2: () => timeline.write(),
    Insert: () => timeline.addPrompt(),
    Delete: () => timeline.removeSelected(),
    Backspace: () => timeline.removeSelected(),
    "$mod+c": () => timeline.copy(),
    "$mod+x": () => (timeline.copy(), timeline.removeSelected()),
    "$mod+v": () => timeline.paste(),
  };
}

function endKeys(timeline) {
  const step = () => timeline.scale.step;
  const second = () => Math.max(timeline.scale.ofSeconds(1), timeline.scale.step);
  return {
    ArrowLeft: () => moveEnd(timeline, -step()),
    ArrowRight: () => moveEnd(timeline, step()),
    "Shift+ArrowLeft": () => moveEnd(timeline, -second()),
    "Shift+ArrowRight": () => moveEnd(timeline, second()),
  };
}

function move(timeline, by) {
  timeline.moveTo(timeline.scale.position(timeline.entry) + by);
}

/** Move where the chosen prompt ends: the next one's beginning, or the end of the video. */
function moveNext(timeline, by) {
  const { kind, index } = timeline.selected;
  if (kind !== "prompts") return;
  const next = promptsOf(timeline.story)[index + 1];
  if (!next) return moveEnd(timeline, by);
  timeline.edit((story) => timeline.moved(story, kind, index + 1, timeline.scale.position(next) + by));
}

function moveEnd(timeline, by) {
  timeline.endAt(timeline.scale.last + by);
  timeline.remember();
}

/** Let the chosen picture count more or less, where the model can. */
function strengthen(timeline, by) {
  const { kind, index } = timeline.selected;
  if (kind !== "keyframes" || timeline.outlook.strengths === false) return;
  const strength = Number(
    Math.min(Math.max((picturesOf(timeline.story)[index].strength ?? 1) + by, 0.05), 1).toFixed(2),
  );
  timeline.edit((story) => ({
    ...story,
    keyframes: picturesOf(story).map((each, i) => (i === index ? { ...each, strength } : each)),
  }));
}
