/** A moving picture of a few frames that lie below each other in one image. The browser's compositor moves it: no
 * script runs while it plays. */
import { sayNow } from "../messages.mjs";

const say = (key, text) => sayNow({ key, values: {}, text });
const LABEL = () => say("live_picture", "What has been made so far, as a moving picture");
const PAUSE = () => say("live_pause", "Pause the moving picture");
const PLAY = () => say("live_play", "Play the moving picture");
// what the frames are of, in the order in which they are counted
const MARKS = {
  before: () => say("live_before", "window before"),
  joined: () => say("live_joined", "join"),
  new: () => say("live_new", "new"),
  following: () => say("live_following", "next join"),
};
const films = new WeakMap(); // figure -> its Film

/** The figure of a moving picture {picture, frames, ratio, seconds, marks}; the one that is there plays on in it. */
export function filmOf(value, old) {
  const figure = old ?? new Film().figure;
  films.get(figure).show(value);
  return figure;
}

class Film {
  constructor() {
    this.reel = element("div", "reelwire-reel");
    this.screen = element("div", "reelwire-screen reelwire-picture", this.reel);
    this.screen.setAttribute("role", "img");
    this.button = element("button", "reelwire-pause");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.pause(!this.paused));
    this.figure = element("figure", "reelwire-live", element("div", "reelwire-stage", this.screen, this.button));
    films.set(this.figure, this);
    this.pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  pause(paused) {
    this.paused = paused;
    this.figure.classList.toggle("reelwire-paused", paused);
    this.button.ariaLabel = this.button.title = paused ? PLAY() : PAUSE();
  }

  async show(value) {
    this.newest = value;
    const image = Object.assign(new Image(), { alt: "", src: `data:image/jpeg;base64,${value.picture}` });
    await image.decode(); // else nothing would be seen until it is
    if (this.newest !== value) return;
    const { frames, ratio, seconds, marks } = value;
    for (const [name, number] of Object.entries({ frames, ratio, seconds: `${seconds}s` }))
      this.figure.style.setProperty(`--reelwire-${name}`, number);
    this.screen.ariaLabel = LABEL();
    this.reel.replaceChildren(image);
    this.mark(marks ?? []);
  }

  /** Which frames belong to which side of a join, where there is one. */
  mark(counts) {
    const key = counts.join();
    if (key === this.marks) return;
    this.marks = key;
    const kinds = Object.keys(MARKS).filter((_, i) => counts[i]);
    if (kinds.length < 2) return this.figure.replaceChildren(this.figure.firstChild);
    const bar = element("div", "reelwire-marks", element("div", "reelwire-cursor"));
    for (const [i, kind] of Object.keys(MARKS).entries())
      bar.append(Object.assign(element("div", `reelwire-mark-${kind}`), { style: `flex-grow: ${counts[i]}` }));
    const names = kinds.map((kind) => element("span", `reelwire-key reelwire-mark-${kind}`, MARKS[kind]()));
    this.figure.replaceChildren(this.figure.firstChild, bar, element("figcaption", "", ...names));
  }
}

function element(tag, className, ...content) {
  const made = Object.assign(document.createElement(tag), { className });
  made.append(...content);
  return made;
}
