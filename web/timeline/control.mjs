/** The control of a timeline: it holds the text that Long Video reads, shows it as an axis, and writes what is done. */
import { loadTexts, phrase, sayNow } from "../messages.mjs";
import { Axis } from "./axis.mjs";
import { Details, Picker } from "./details.mjs";
import { button, make, set } from "./elements.mjs";
import { canSetFrames, readerOf, setFrames, valueOf } from "./graph.mjs";
import { History } from "./history.mjs";
import { askForFiles, inputPictures, isPicture, upload } from "./pictures.mjs";
import { listenForDrags, listenForDrops } from "./pointer.mjs";
import { listenForKeys } from "./keys.mjs";
import { Scale } from "./scale.mjs";
import { change, insert, listOf, picturesOf, promptsOf, readStory, remove, unitOf, writeStory } from "./story.mjs";

const FIRST = { kind: "prompts", index: 0 };
let controls = 0;
let copied; // {kind, entry}: what was copied or cut, on any timeline of the page

export class Timeline {
  text = "";
  selected = FIRST;
  asText = false;
  outlook = {};
  #history = new History();
  #said = ""; // what a person should know of the last thing that was done

  /** node, name: whose widget it is. changed: called with each text that a person makes; kept: when a step is done. */
  constructor(node, name, { changed, kept }) {
    Object.assign(this, { node, name, changed, kept });
    this.axis = new Axis();
    this.axis.keysId = `reelwire-tl-keys-${++controls}`;
    this.details = new Details(this.#writing());
    this.picker = new Picker({
      choose: (file) => this.#chosen([file]),
      upload: () => this.#upload(),
      close: () => this.#closePicker(),
    });
    this.words = set(make("div", "reelwire-tl-words"), { role: "status" });
    this.plain = make("textarea", "reelwire-tl-plain", { spellcheck: false });
    this.keys = make("span", "reelwire-tl-unseen", { id: this.axis.keysId });
    this.element = make(
      "div",
      "reelwire-timeline",
      {},
      this.#bar(),
      this.axis.element,
      this.details.element,
      this.plain,
      this.picker.element,
      this.words,
      this.keys,
    );
    set(this.element, { role: "group" });
    this.plain.addEventListener("input", () => this.#typed());
    this.plain.addEventListener("change", () => this.remember());
    listenForDrags(this);
    listenForDrops(this);
    listenForKeys(this);
    new ResizeObserver(() => this.axis.drawRuler()).observe(this.axis.ruler);
    loadTexts().then(() => this.draw());
  }

  #bar() {
    this.buttons = {
      prompt: button("add", "timeline_add_prompt", () => this.addPrompt(), true),
      picture: button("add", "timeline_add_picture", () => this.choosePicture(), true),
      undo: button("undo", "timeline_undo", () => this.undo(-1)),
      redo: button("redo", "timeline_redo", () => this.undo(1)),
      remove: button("remove", "timeline_delete", () => this.removeSelected()),
      text: button("text", "timeline_as_text", () => this.#toggleText(), true),
    };
    this.bar = set(make("div", "reelwire-tl-bar", {}, ...Object.values(this.buttons)), { role: "toolbar" });
    return this.bar;
  }

  /** What the fields below the axis do. */
  #writing() {
    return {
      write: (values) => this.edit((story) => change(story, this.selected.kind, this.selected.index, values), false),
      negative: (negative) => this.edit((story) => ({ ...story, negative }), false),
      begin: (at) => {
        this.moveTo(this.scale.position({ at }));
        this.draw(); // where it already lay there, the field says so again
      },
      choose: () => this.choosePicture(this.selected.index),
      done: () => this.remember(),
      leave: () => this.focusSelected(),
    };
  }

  // ---------------------------------------------------------------- what it holds

  /** Take a text that the page brings: of a saved graph, of an undo, of a script. */
  take(text) {
    text = String(text ?? "");
    if (text === this.text && this.story) return;
    this.text = text;
    this.story = readStory(text);
    this.#history.begin(this.#state());
    this.#select(this.selected);
    this.draw();
  }

  #state() {
    return { text: this.text, frames: this.frames };
  }

  /** Change the story; kept: whether it is a step to go back to. */
  edit(act, kept = true) {
    const story = act(this.story);
    if (!story || story === this.story) return;
    this.story = story;
    this.#write(writeStory(story), kept);
  }

  #write(text, kept) {
    this.#said = "";
    if (text !== this.text) {
      this.text = text;
      this.changed(text);
    }
    if (kept) this.remember();
    this.draw();
  }

  /** Make what holds now a step to go back to. */
  remember() {
    this.#history.push(this.#state());
    this.kept();
    this.#drawBar();
  }

  undo(by) {
    const state = this.#history.move(by);
    this.#restore(state);
    this.focusSelected();
  }

  #restore({ text, frames }) {
    this.story = readStory(text);
    if (frames && this.canEnd) setFrames(this.reader, frames);
    this.#select(this.selected);
    this.#write(text, false);
    this.kept();
  }

  // ---------------------------------------------------------------- what is around it

  /** What the node's surroundings are now, and what the server has said of them. */
  surround(reader, outlook) {
    Object.assign(this, { reader, outlook, canEnd: canSetFrames(reader) });
    this.#history.amend(this.#state());
    this.draw();
  }

  get frames() {
    const frames = this.reader && valueOf(this.reader, "frames");
    return this.outlook.frames ?? (Number.isInteger(frames) && frames > 0 ? frames : undefined);
  }

  #scaled() {
    const chosen = this.reader && valueOf(this.reader, "fps");
    const fps = this.outlook.fps ?? (chosen > 0 ? chosen : undefined);
    return new Scale(this.story, { fps, frames: this.frames, step: this.outlook.step });
  }

  // ---------------------------------------------------------------- what it shows

  draw() {
    const drawable = Boolean(this.story) && this.outlook.readable !== false;
    const shown = this.wired ? "wired" : drawable && !this.asText ? "axis" : "text";
    this.element.dataset.shows = shown;
    set(this.element, { "aria-label": phrase("timeline_axis") });
    set(this.bar, { "aria-label": phrase("timeline_bar") });
    this.keys.textContent = phrase("timeline_keys");
    this.axis.hint.textContent = phrase("timeline_drop");
    if (this.plain.value !== this.text) this.plain.value = this.text;
    set(this.plain, { "aria-label": phrase("timeline_json_text") });
    if (this.story) {
      this.scale = this.#scaled();
      this.#select(this.selected);
      if (shown === "axis") {
        this.axis.draw(this.story, this.scale, this.selected, this.outlook, this.canEnd && this.scale.hasEnd);
        this.details.draw(this.story, this.selected, this.axis, this.outlook.strengths);
      }
    }
    this.#drawBar();
    this.#drawWords();
  }

  #drawBar() {
    const { prompt, picture, undo, redo, remove: bin, text } = this.buttons;
    for (const each of Object.values(this.buttons)) each.say();
    const shows = this.element.dataset.shows;
    for (const each of [prompt, picture, bin]) each.hidden = shows !== "axis";
    undo.disabled = !this.#history.canUndo;
    redo.disabled = !this.#history.canRedo;
    bin.disabled = !this.story || (this.selected.kind === "prompts" && promptsOf(this.story).length === 1);
    text.disabled = !this.story || this.outlook.readable === false;
    set(text, { "aria-pressed": shows === "text" });
  }

  /** The error, or what the video is in words. */
  #drawWords() {
    const { error, notes = [] } = this.outlook;
    const node = this.reader?.node;
    const wrong = this.wired ? "" : this.#said || (error ? sayNow(error, node) : "");
    const rest = () => [...this.#summary(), ...notes.map((note) => sayNow(note, node))];
    const lines = [wrong, ...(this.wired ? [phrase("timeline_wired")] : rest())];
    this.words.classList.toggle("reelwire-tl-wrong", Boolean(wrong));
    const texts = [...new Set(lines.filter(Boolean))];
    if (texts.join("\n") !== this.words.dataset.said) {
      this.words.dataset.said = texts.join("\n");
      this.words.replaceChildren(...texts.map((textContent) => make("div", "", { textContent })));
      this.words.title = texts.join("\n"); // where there is no room for all of it
    }
  }

  #summary() {
    if (!this.story || this.outlook.readable === false) return [];
    const { step } = this.outlook;
    if (!this.reader) return this.asked ? [phrase("timeline_unconnected")] : []; // until the server has answered
    const { scale } = this;
    const length = scale.hasEnd ? scale.seconds(scale.last + 1) : undefined;
    const values = {
      seconds: length && Number(length.toFixed(2)),
      frames: scale.last + 1,
      fps: scale.fps && Number(scale.fps.toFixed(3)),
      step,
    };
    const total = length ? phrase("timeline_total", values) : "";
    if (!step) return [total, this.outlook.error ? "" : phrase("timeline_no_model")];
    const grid = phrase("timeline_grid", values);
    return [total ? phrase("sentences", { first: total, second: grid }) : grid];
  }

  /** Tell a person something until the next change. */
  tell(words) {
    this.#said = words;
    this.#drawWords();
  }

  // ---------------------------------------------------------------- what is chosen

  /** Choose an entry; the nearest one where there is none of this index. */
  #select({ kind, index }) {
    const count = this.story ? listOf(this.story, kind).length : 0;
    this.selected = count ? { kind, index: Math.min(Math.max(index, 0), count - 1) } : FIRST;
  }

  select(kind, index) {
    if (this.selected.kind === kind && this.selected.index === index) return;
    this.#select({ kind, index });
    this.draw();
  }

  /** The element that takes the keys of the chosen entry. */
  focusSelected() {
    const lane = this.selected.kind === "prompts" ? this.axis.prompts : this.axis.pictures;
    lane.querySelector(`[data-index="${this.selected.index}"] .reelwire-tl-handle`)?.focus();
  }

  write() {
    this.details.focus(this.selected.kind);
  }

  // ---------------------------------------------------------------- what can be done

  get entry() {
    return listOf(this.story, this.selected.kind)[this.selected.index];
  }

  /** The story with an entry at another position, on the grid; free: at any frame, of a picture. */
  moved(story, kind, index, position, free = false) {
    const { scale } = this;
    const place =
      kind === "prompts"
        ? scale.promptPlace(story, index, position)
        : scale.picturePlace(position, free ? 1 : scale.step);
    const entry = listOf(story, kind)[index];
    if (place === undefined || !entry || place === scale.position(entry)) return story;
    return change(story, kind, index, { at: scale.at(place) });
  }

  moveTo(position, free = false) {
    this.edit((story) => this.moved(story, this.selected.kind, this.selected.index, position, free));
  }

  /** Let the video end at a frame, on the grid, behind all that lies on it; kept: see `edit`. */
  endAt(position) {
    const { scale, story } = this;
    if (!this.canEnd || !scale.hasEnd) return;
    const least = Math.max(
      ...promptsOf(story).map((entry) => scale.position(entry)),
      ...picturesOf(story).map((entry) => scale.position(entry)),
      0,
    );
    const units = Math.max(Math.round(position / scale.step), Math.ceil((least + (least > 0)) / scale.step), 1);
    setFrames(this.reader, units * scale.step + 1);
    this.outlook = { ...this.outlook, frames: units * scale.step + 1, windows: undefined, notes: [] };
    this.draw();
  }

  /** Add a prompt where the chosen one is half over, or at a position. */
  addPrompt(position, text = "") {
    const { scale, story } = this;
    const prompts = promptsOf(story);
    const at = position ?? this.#middle();
    const before = prompts.findLastIndex((entry) => scale.position(entry) <= at);
    const opened = insert(story, "prompts", before + 1, { at: scale.at(at), text });
    const place = scale.promptPlace(opened, before + 1, at);
    if (place === undefined) return this.tell(phrase("timeline_no_room", { step: scale.step }));
    this.#select({ kind: "prompts", index: before + 1 });
    this.selected = { kind: "prompts", index: before + 1 };
    this.edit(() => change(opened, "prompts", before + 1, { at: scale.at(place) }));
    this.write();
  }

  #middle() {
    const { scale, story, selected } = this;
    const prompts = promptsOf(story);
    const at =
      selected.kind === "prompts"
        ? selected.index
        : prompts.findLastIndex((each) => scale.position(each) <= scale.position(this.entry));
    const next = prompts[at + 1];
    return (scale.position(prompts[at]) + (next ? scale.position(next) : scale.last)) / 2;
  }

  removeSelected() {
    const { kind, index } = this.selected;
    this.edit((story) => remove(story, kind, index));
    this.focusSelected();
  }

  copy() {
    copied = { kind: this.selected.kind, entry: { ...this.entry } };
    navigator.clipboard?.writeText(JSON.stringify(this.entry)).catch(() => {}); // for other programs, if they may
  }

  paste() {
    if (!copied) return;
    if (copied.kind === "prompts") this.addPrompt(this.#middle(), copied.entry.text);
    else this.addPictures([copied.entry.image], undefined, copied.entry.strength);
    this.focusSelected();
  }

  /** Add pictures from a position on, each at a place of its own. */
  addPictures(files, position, strength) {
    const { scale } = this;
    let at = position ?? scale.position(this.entry);
    for (const image of files) {
      at = this.#free(at);
      const entry = { at: scale.at(at), image, ...(strength === undefined ? {} : { strength }) };
      const index = picturesOf(this.story).length;
      this.selected = { kind: "keyframes", index };
      this.edit((story) => insert(story, "keyframes", index, entry));
    }
  }

  /** The first place of the grid from a position on where no picture lies; else one before it. */
  #free(position) {
    const { scale } = this;
    const taken = new Set(picturesOf(this.story).map((entry) => scale.picturePlace(scale.position(entry))));
    const from = scale.picturePlace(position);
    const after = Array.from({ length: scale.units + 1 }, (_, i) => from + i * scale.step).filter(
      (at) => at <= scale.last,
    );
    const before = Array.from({ length: scale.units + 1 }, (_, i) => from - i * scale.step).filter((at) => at >= 0);
    return [...after, ...before].find((at) => !taken.has(at)) ?? from;
  }

  // ---------------------------------------------------------------- pictures

  /** Open the list of the input folder. index: of the picture that gives way; without it one is added. */
  async choosePicture(index, position) {
    this.placing = { index, position };
    try {
      this.picker.open(await inputPictures());
      this.#behind(true);
    } catch (error) {
      this.tell(phrase("timeline_no_list", { error: error.message }));
    }
  }

  /** Let nothing that lies behind the list take keys while it is open. */
  #behind(inert) {
    for (const { element } of [this.axis, this.details]) element.inert = inert;
  }

  #closePicker() {
    this.picker.close();
    this.#behind(false);
    this.focusSelected();
  }

  #chosen(files) {
    this.picker.close();
    this.#behind(false);
    const { index, position } = this.placing ?? {};
    if (index === undefined) this.addPictures(files, position);
    else this.edit((story) => change(story, "keyframes", index, { image: files[0] }));
    this.focusSelected();
  }

  async #upload() {
    const files = await askForFiles();
    if (files.length) await this.bring(files, this.placing ?? {});
  }

  /** Put files of the disk into the input folder, and on the axis. */
  async bring(files, placing) {
    this.placing = placing;
    const wrong = files.filter((file) => !isPicture(file)).map(({ name }) => phrase("timeline_not_picture", { name }));
    const names = [];
    for (const file of files.filter(isPicture)) {
      try {
        names.push(await upload(file));
      } catch (error) {
        wrong.push(phrase("timeline_not_uploaded", { name: file.name, error: error.message }));
      }
    }
    if (names.length) this.#chosen(names);
    if (wrong.length) this.tell(wrong.join(" "));
  }

  // ---------------------------------------------------------------- as text

  #toggleText() {
    this.asText = !this.asText;
    this.draw();
    if (this.asText) this.plain.focus();
    else this.focusSelected();
  }

  #typed() {
    this.text = this.plain.value;
    this.story = readStory(this.text);
    this.asText = true;
    this.outlook = { ...this.outlook, readable: undefined };
    this.changed(this.text);
    this.draw();
  }
}
