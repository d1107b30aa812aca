/** The mouse, a pen or a finger on a timeline: entries and their edges are dragged, files are dropped. */
import { DragGesture } from "../vendor/use-gesture.mjs";
import { promptsOf } from "./story.mjs";

/** What lies under a pointer: {kind, index, edge}; kind "end" is the end of the video. */
function under(target) {
  const entry = target.closest("[data-index]");
  if (target.closest(".reelwire-tl-end")) return { kind: "end" };
  if (!entry) return undefined;
  const kind = entry.classList.contains("reelwire-tl-prompt") ? "prompts" : "keyframes";
  return { kind, index: Number(entry.dataset.index), edge: Boolean(target.closest(".reelwire-tl-edge")) };
}

export function listenForDrags(timeline) {
  const { axis } = timeline;
  const { element } = axis;
  element.addEventListener("pointerdown", ({ target, button }) => {
    const hit = under(target);
    if (button || !hit || hit.kind === "end") return;
    timeline.select(hit.kind, hit.index);
    timeline.focusSelected();
  });
  element.addEventListener("mousedown", (event) => event.preventDefault()); // which would take the focus away again
  element.addEventListener("dblclick", ({ target, clientX }) => doubleClicked(timeline, target, clientX));
  new DragGesture(element, (state) => drag(timeline, state), { filterTaps: true, axis: "x", pointer: { keys: false } });
}

function doubleClicked(timeline, target, clientX) {
  if (under(target)?.kind === "prompts") timeline.write();
  else if (under(target)?.kind === "keyframes") timeline.choosePicture(timeline.selected.index);
  else if (target.closest(".reelwire-tl-pictures"))
    timeline.choosePicture(undefined, timeline.axis.positionAt(clientX));
}

/** A step of a drag; what it changes is kept at its end, and taken back where Escape gives it up. */
function drag(timeline, state) {
  const { first, last, canceled, movement, event } = state;
  if (first) state.memo = begin(timeline, event.target);
  const memo = state.memo;
  if (!memo) return memo;
  timeline.giveUp = last ? undefined : state.cancel;
  timeline.axis.element.classList.toggle("reelwire-tl-dragging", !last);
  if (canceled) {
    memo.back();
    return memo;
  }
  memo.move((movement[0] / memo.width) * memo.last, event.altKey);
  if (last) timeline.remember();
  return memo;
}

/** What a drag moves, from how wide an axis; back: as it was. */
function begin(timeline, target) {
  const hit = under(target);
  if (!hit) return undefined;
  const { story, scale } = timeline;
  const shared = { last: scale.last, width: timeline.axis.track.getBoundingClientRect().width };
  if (hit.kind === "end")
    return { ...shared, move: (by) => timeline.endAt(scale.last + by), back: () => timeline.endAt(scale.last) };
  const move = hit.kind === "prompts" && !hit.edge ? whole(timeline, story, hit) : single(timeline, story, hit);
  return { ...shared, move, back: () => timeline.edit(() => story, false) };
}

/** Move where an entry begins. */
function single(timeline, story, { kind, index }) {
  const from = timeline.scale.position(story[kind][index]);
  return (by, free) => timeline.edit(() => timeline.moved(story, kind, index, from + by, free), false);
}

/** Move a prompt as a whole: where it begins, and where the next one does. */
function whole(timeline, story, { index }) {
  const { scale } = timeline;
  const [from, to] = [index, index + 1].map((i) => promptsOf(story)[i] && scale.position(promptsOf(story)[i]));
  const middle = index > 0 && to !== undefined;
  return (by) =>
    timeline.edit(() => {
      if (!middle) return timeline.moved(story, "prompts", index, from + by);
      const [low] = scale.promptUnits(story, index);
      const [, high] = scale.promptUnits(story, index + 1);
      const length = scale.unitOf(to) - scale.unitOf(from);
      const unit = Math.min(Math.max(scale.unitOf(from + by), low), high - length);
      const ends = [scale.ofUnit(unit), scale.ofUnit(unit + length)];
      const prompts = promptsOf(story).map((entry, i) =>
        i === index || i === index + 1 ? { ...entry, at: scale.at(ends[i - index]) } : entry,
      );
      return unit === scale.unitOf(from) ? story : { ...story, prompts };
    }, false);
}

export function listenForDrops(timeline) {
  const { element, axis } = timeline;
  const isFile = (event) => [...event.dataTransfer.types].includes("Files") && element.dataset.shows === "axis";
  const over = (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    event.stopPropagation();
    element.classList.toggle("reelwire-tl-over", event.type === "dragover");
  };
  for (const name of ["dragover", "dragleave"]) element.addEventListener(name, over);
  element.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    over(event);
    timeline.bring([...event.dataTransfer.files], { position: axis.positionAt(event.clientX) });
  });
}
