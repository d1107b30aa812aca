/** The axis of a timeline as elements: marks of time, prompts as blocks, pictures, windows and where they join. */
import { phrase } from "../messages.mjs";
import { make, set } from "./elements.mjs";
import { thumbnail } from "./pictures.mjs";
import { clamp, markEvery } from "./scale.mjs";
import { picturesOf, promptsOf } from "./story.mjs";

const [LABEL_ROOM, MARK_ROOM] = [74, 6]; // pixels from a mark with a label, and from any mark, to the next
const MOST_WINDOWS = 400; // that can be told apart
const percent = (share) => `${(share * 100).toFixed(4)}%`;

export class Axis {
  constructor() {
    this.ruler = make("div", "reelwire-tl-ruler");
    this.prompts = make("div", "reelwire-tl-lane reelwire-tl-prompts");
    this.pictures = make("div", "reelwire-tl-lane reelwire-tl-pictures");
    this.windows = make("div", "reelwire-tl-windows");
    this.end = make("div", "reelwire-tl-end", {}, handle());
    this.hint = make("div", "reelwire-tl-drop");
    set(this.ruler, { "aria-hidden": true });
    set(this.windows, { role: "img" });
    this.track = make("div", "reelwire-tl-track", {}, this.ruler, this.prompts, this.pictures, this.windows, this.end);
    this.element = make("div", "reelwire-tl-axis", {}, this.track, this.hint);
  }

  /** Draw a story. selected: {kind, index}; outlook: what the server says of it. */
  draw(story, scale, selected, outlook, canEnd) {
    Object.assign(this, { story, scale });
    const isSelected = (kind, index) => selected.kind === kind && selected.index === index;
    const prompts = promptsOf(story);
    fill(this.prompts, prompts.length, newPrompt, (block, i) => this.#prompt(block, i, isSelected("prompts", i)));
    const pictures = picturesOf(story);
    fill(this.pictures, pictures.length, newPicture, (card, i) => this.#picture(card, i, isSelected("keyframes", i)));
    this.pictures.dataset.empty = pictures.length ? "" : phrase("timeline_no_pictures");
    this.#begins(outlook);
    this.drawWindows(outlook);
    this.drawRuler();
    this.end.hidden = !canEnd;
    slide(this.end.firstChild, phrase("timeline_end"), this, scale.last, [scale.last, scale.last]);
  }

  #prompt(block, index, isSelected) {
    const { scale, story } = this;
    const [entry, next] = promptsOf(story).slice(index, index + 2);
    const [from, to] = [scale.position(entry), next ? scale.position(next) : scale.last];
    place(block, scale.share(from), scale.share(to));
    set(block, { "data-index": index, "data-selected": isSelected });
    const words = entry.text.trim();
    block.querySelector(".reelwire-tl-text").textContent = words || phrase("timeline_write_here");
    block.classList.toggle("reelwire-tl-blank", !words);
    block.title = words;
    const [low, high] = scale.promptUnits(story, index).map((unit) => (index ? scale.ofUnit(unit) : 0));
    const name = phrase("timeline_prompt", { number: index + 1, text: words });
    slide(block.firstChild, name, this, from, [Math.min(low, from), Math.max(high, from)]);
  }

  #picture(card, index, isSelected) {
    const { scale, story } = this;
    const entry = picturesOf(story)[index];
    const [at, strength] = [scale.position(entry), clamp(entry.strength ?? 1, 0, 1)];
    card.style.left = percent(scale.share(at));
    card.style.setProperty("--strength", strength);
    set(card, { "data-index": index, "data-selected": isSelected, "data-edge": edgeOf(scale.share(at)) });
    const image = card.querySelector("img");
    const source = thumbnail(entry.image);
    if (image.getAttribute("src") !== source) image.src = source;
    card.title = entry.image;
    const name = phrase("timeline_picture", { number: index + 1, file: entry.image });
    slide(card.firstChild, name, this, at, [0, scale.last]);
  }

  /** Marks at the frames where prompts really begin, where that is elsewhere than they ask for. */
  #begins({ windows = [] }) {
    for (const mark of this.prompts.querySelectorAll(".reelwire-tl-begins")) mark.remove();
    const begins = new Map([...windows].reverse().map(([start, , shared, prompt]) => [prompt, start + shared]));
    promptsOf(this.story).forEach((entry, index) => {
      const at = begins.get(index);
      if (!index || at === undefined || at === this.scale.position(entry)) return;
      const mark = make("div", "reelwire-tl-begins", { title: phrase("timeline_begins", { frame: at }) });
      mark.style.left = percent(this.scale.share(at));
      this.prompts.append(mark);
    });
  }

  /** Windows in two rows, so that what two of them share is seen in both. */
  drawWindows({ windows = [] }) {
    const shown = windows.length <= MOST_WINDOWS ? windows : [];
    const bars = shown.map(([start, end], i) => {
      const bar = make("div", "reelwire-tl-window", { textContent: windows.length > 1 ? i + 1 : "" });
      bar.dataset.row = i % 2;
      return place(bar, this.scale.share(start), this.scale.share(end));
    });
    const joins = shown
      .filter(([, , shared]) => shared)
      .map(([start, , shared]) => {
        const join = make("div", "reelwire-tl-join");
        return place(join, this.scale.share(start), this.scale.share(start + shared - 1));
      });
    this.windows.replaceChildren(...bars, ...joins);
    const list = windows.map(([start, end, shared], i) =>
      phrase("timeline_window", { number: i + 1, start, end, shared }),
    );
    set(this.windows, { "aria-label": list.slice(0, 50).join(" "), title: list.slice(0, 12).join("\n") });
  }

  /** Marks of seconds with the frame below each, and small ones at the grid; as many as there is room for. */
  drawRuler() {
    const { scale } = this;
    const width = this.ruler.clientWidth;
    if (!scale || !width) return;
    const perPixel = scale.last / width;
    const inSeconds = scale.seconds(0) !== undefined;
    const factor = inSeconds ? scale.ofSeconds(1) : 1; // positions of what the labels count
    const every = markEvery(Math.max((LABEL_ROOM * perPixel) / factor, inSeconds ? 0.1 : 1)) * factor;
    const labels = marks(every, scale.last).map((at) => label(scale, at, inSeconds));
    const fine = [scale.step, every / 5].find((step) => step / perPixel >= MARK_ROOM && step < every);
    const ticks = fine ? marks(fine, scale.last).map((at) => tick(scale, at)) : [];
    this.ruler.replaceChildren(...ticks, ...labels);
  }

  /** The position under a pointer. */
  positionAt(clientX) {
    const { left, width } = this.track.getBoundingClientRect();
    return clamp((clientX - left) / width, 0, 1) * this.scale.last;
  }

  /** The words for a position: its second and its frame, as far as they are known. */
  wordsAt(position) {
    const { scale } = this;
    const seconds = scale.seconds(position);
    const values = { seconds: seconds === undefined ? "" : shortest(seconds), frame: position };
    if (seconds === undefined) return phrase("timeline_at_frame", values);
    return phrase(scale.inFrames ? "timeline_at_second_frame" : "timeline_at_second", values);
  }
}

const shortest = (seconds) => String(Number(seconds.toFixed(2)));

function marks(every, last) {
  const count = Math.floor(last / every + 1e-9) + 1;
  return Array.from({ length: count }, (_, i) => i * every);
}

function label(scale, at, inSeconds) {
  const main = inSeconds ? phrase("timeline_at_second", { seconds: shortest(scale.seconds(at)) }) : String(at);
  const frame = inSeconds && scale.inFrames ? make("span", "", { textContent: Math.round(at) }) : undefined;
  const element = make("div", "reelwire-tl-mark", {}, make("b", "", { textContent: main }), frame);
  element.style.left = percent(scale.share(at));
  set(element, { "data-edge": edgeOf(scale.share(at)) });
  return element;
}

function tick(scale, at) {
  const element = make("i", "reelwire-tl-tick");
  element.style.left = percent(scale.share(at));
  return element;
}

/** Which edge of the axis is so near that what stands there must lean away from it. */
const edgeOf = (share) => (share < 0.04 ? "start" : share > 0.96 ? "end" : undefined);

function place(element, from, to) {
  element.style.left = percent(from);
  element.style.width = percent(Math.max(to - from, 0));
  return element;
}

/** Have as many children of a kind as there are entries, the same ones as before, so that none loses the focus. */
function fill(lane, count, create, update) {
  const there = [...lane.querySelectorAll(":scope > [data-index]")];
  there.slice(count).forEach((element) => element.remove());
  while (there.length < count) there.push(lane.appendChild(create()));
  there.slice(0, count).forEach(update);
}

function newPrompt() {
  const words = make("span", "reelwire-tl-text");
  const edge = make("span", "reelwire-tl-edge");
  return set(make("div", "reelwire-tl-prompt", {}, handle(), edge, words), { "data-index": 0 });
}

function newPicture() {
  const image = make("img", "", { alt: "", draggable: false });
  const level = make("span", "reelwire-tl-level");
  const frame = make("span", "reelwire-tl-frame", {}, image, level);
  return set(make("div", "reelwire-tl-picture", {}, handle(), frame), { "data-index": 0 });
}

/** What takes the focus and the keys of an entry, and tells a screen reader where it lies: an unseen slider. */
const handle = () => make("input", "reelwire-tl-handle", { type: "range", step: 1 });

function slide(input, name, axis, position, [low, high]) {
  Object.assign(input, { min: low, max: high, value: position });
  input.dataset.position = position;
  set(input, { "aria-label": name, "aria-valuetext": axis.wordsAt(position), "aria-describedby": axis.keysId });
}
