/** What is chosen on the axis, to be written: a prompt's text, a picture's file and strength, when each begins. */
import { phrase } from "../messages.mjs";
import { button, labelled, make, set } from "./elements.mjs";
import { thumbnail } from "./pictures.mjs";
import { listOf, unitOf } from "./story.mjs";

export class Details {
  /** on: what to do: write(values), begin(at), negative(text), choose(), done() after a field, leave(). */
  constructor(on) {
    this.title = make("b", "reelwire-tl-title");
    this.time = field("number", { min: 0, step: "any" });
    this.moment = make("span", "reelwire-tl-moment");
    this.text = make("textarea", "reelwire-tl-write", { rows: 3 });
    this.image = make("img", "", { alt: "" });
    this.file = make("button", "reelwire-tl-file", { type: "button", onclick: () => on.choose() });
    this.strength = field("range", { min: 0.05, max: 1, step: 0.05 });
    this.level = make("output", "reelwire-tl-number");
    this.negative = field("text", {});
    this.timeLabel = labelled("timeline_from", this.time);
    this.strengthLabel = labelled("timeline_strength", this.strength, "reelwire-tl-wide");
    this.strengthLabel.append(this.level);
    this.negativeLabel = labelled("timeline_negative", this.negative, "reelwire-tl-wide");
    const head = make("div", "reelwire-tl-row", {}, this.title, this.timeLabel, this.moment);
    const right = make("div", "reelwire-tl-column", {}, this.file, this.strengthLabel);
    this.picture = make("div", "reelwire-tl-shown", {}, this.image, right);
    this.element = make("div", "reelwire-tl-details", {}, head, this.text, this.picture, this.negativeLabel);
    this.#listen(on);
  }

  #listen(on) {
    this.text.addEventListener("input", () => on.write({ text: this.text.value }));
    this.strength.addEventListener("input", () => on.write({ strength: Number(this.strength.value) }));
    this.negative.addEventListener("input", () => on.negative(this.negative.value));
    this.time.addEventListener("change", () => this.time.value !== "" && on.begin(Number(this.time.value)));
    for (const each of [this.text, this.strength, this.negative]) each.addEventListener("change", () => on.done());
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      on.leave();
    });
  }

  draw(story, { kind, index }, axis, strengths) {
    const entry = listOf(story, kind)[index];
    const [isPrompt, number] = [kind === "prompts", index + 1];
    const position = axis.scale.position(entry);
    this.title.textContent = phrase(isPrompt ? "timeline_prompt_number" : "timeline_picture_number", { number });
    this.timeLabel.say({ unit: phrase(unitOf(story) === "seconds" ? "timeline_seconds" : "timeline_frames") });
    keep(this.time, unitOf(story) === "seconds" && !axis.scale.inFrames ? entry.at : axis.scale.at(position));
    this.time.disabled = isPrompt && index === 0;
    this.moment.textContent = isPrompt && index === 0 ? phrase("timeline_first_prompt") : axis.wordsAt(position);
    this.text.hidden = !isPrompt;
    this.picture.hidden = isPrompt;
    this.strengthLabel.say();
    this.negativeLabel.say();
    keep(this.negative, story.negative ?? "");
    if (isPrompt) this.#prompt(entry, number);
    else this.#picture(entry, strengths);
  }

  #prompt(entry, number) {
    keep(this.text, entry.text);
    this.text.placeholder = phrase("timeline_write_here");
    set(this.text, { "aria-label": phrase("timeline_text_of", { number }) });
  }

  #picture(entry, strengths) {
    const source = thumbnail(entry.image);
    if (this.image.getAttribute("src") !== source) this.image.src = source;
    this.file.textContent = entry.image;
    set(this.file, { "aria-label": phrase("timeline_choose", { file: entry.image }), title: entry.image });
    keep(this.strength, entry.strength ?? 1);
    this.strength.disabled = strengths === false;
    this.level.textContent = strengths === false ? phrase("timeline_no_strength") : Number(entry.strength ?? 1);
  }

  /** Put the cursor where a person writes. */
  focus(kind) {
    const place = kind === "prompts" ? this.text : this.strength.disabled ? this.file : this.strength;
    place.focus();
    if (place === this.text) place.setSelectionRange(place.value.length, place.value.length);
  }
}

const field = (type, properties) => make("input", "reelwire-tl-input", { type, ...properties });

/** Give a field a value; what a person is writing in it is left alone where it says the same. */
function keep(input, value) {
  const same = input.type === "text" || input.tagName === "TEXTAREA" ? input.value === value : +input.value === +value;
  if (!same || input.value === "") input.value = value;
}

/** The pictures of the input folder, to choose from. */
export class Picker {
  /** on: choose(name), upload(), close(). */
  constructor(on) {
    this.on = on;
    this.find = field("search", {});
    this.list = make("div", "reelwire-tl-choices");
    this.disk = button("disk", "timeline_upload", () => on.upload(), true);
    this.shut = button("close", "timeline_close", () => on.close());
    this.findLabel = labelled("timeline_find", this.find, "reelwire-tl-wide");
    const head = make("div", "reelwire-tl-row", {}, this.findLabel, this.disk, this.shut);
    this.element = make("div", "reelwire-tl-picker", { hidden: true }, head, this.list);
    this.find.addEventListener("input", () => this.#draw());
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      on.close();
    });
  }

  open(names) {
    this.names = names;
    this.find.value = "";
    for (const part of [this.disk, this.shut, this.findLabel]) part.say();
    set(this.element, { role: "dialog", "aria-label": phrase("timeline_pick") });
    this.element.hidden = false;
    this.#draw();
    this.find.focus();
  }

  close() {
    this.element.hidden = true;
  }

  #draw() {
    const words = this.find.value.toLowerCase();
    const found = this.names.filter((name) => name.toLowerCase().includes(words));
    const choices = found.slice(0, 200).map((name) => {
      const image = make("img", "", { src: thumbnail(name), alt: "", loading: "lazy" });
      const act = { type: "button", title: name, onclick: () => this.on.choose(name) };
      return make("button", "reelwire-tl-choice", act, image, make("span", "", { textContent: name }));
    });
    this.list.replaceChildren(...(choices.length ? choices : [phrase("timeline_none_found")]));
  }
}
