/** A moving picture of a few frames that lie below each other in one image.
 *
 * A timer moves it, once for each frame and only while it is on the screen: an animation of the browser's would be
 * drawn with each picture of the screen, and all nodes around it anew with it. Where the page takes long to draw, as
 * with many nodes or without a graphics card, frames are left out. */
import { sayNow } from "../messages.mjs";

const say = (message) => sayNow({ values: {}, ...message });
const LABEL = () => say({ key: "live_picture", text: "What has been made so far, as a moving picture" });
const PAUSE = () => say({ key: "live_pause", text: "Pause the moving picture" });
const PLAY = () => say({ key: "live_play", text: "Play the moving picture" });
// what the frames are of, in the order in which they are counted
const MARKS = {
  before: () => say({ key: "live_before", text: "window before" }),
  joined: () => say({ key: "live_joined", text: "join" }),
  new: () => say({ key: "live_new", text: "new" }),
  following: () => say({ key: "live_following", text: "next join" }),
};
const films = new WeakMap(); // figure -> its Film
// a drawing of the page that takes fewer milliseconds slows nobody; after a longer one so many times as long is waited,
// and at most so many milliseconds
const [SMOOTH, SHARE, LONGEST] = [34, 8, 2000];

/** The figure of a moving picture {picture, frames, ratio, seconds, marks}; the one that is there plays on in it. */
export function filmOf(value, old) {
  const figure = old ?? new Film().figure;
  films.get(figure).show(value);
  return figure;
}

class Film {
  constructor() {
    this.screen = element("div", "reelwire-screen reelwire-picture");
    this.screen.setAttribute("role", "img");
    this.cursor = element("div", "reelwire-cursor");
    [this.frame, this.turned, this.drawing] = [0, 0, 0];
    this.button = element("button", "reelwire-pause");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.pause(!this.paused));
    this.figure = element("figure", "reelwire-live", element("div", "reelwire-stage", this.screen, this.button));
    films.set(this.figure, this);
    new IntersectionObserver((entries) => this.see(entries.at(-1).isIntersecting)).observe(this.figure);
    this.pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  pause(paused) {
    this.paused = paused;
    this.figure.classList.toggle("reelwire-paused", paused);
    this.button.ariaLabel = this.button.title = paused ? PLAY() : PAUSE();
    this.run();
  }

  see(visible) {
    this.visible = visible;
    this.run();
  }

  /** Let the timer go if there is something to see that moves. */
  run() {
    clearTimeout(this.timer);
    const { frames } = this.shown ?? {};
    if (!this.visible || this.paused || !(frames > 1)) return;
    this.turned = performance.now();
    this.wait();
  }

  wait() {
    const least = this.drawing > SMOOTH ? Math.min(SHARE * this.drawing, LONGEST) : 0;
    this.timer = setTimeout(() => this.turn(), Math.max(this.pace, least));
  }

  /** Milliseconds of a frame. */
  get pace() {
    const { frames, seconds } = this.shown;
    return (1000 * seconds) / frames;
  }

  turn() {
    const { frames } = this.shown;
    const passed = Math.round((performance.now() - this.turned) / this.pace);
    this.turned = performance.now();
    this.frame = (this.frame + Math.max(1, Math.min(passed, Math.ceil(frames / 4)))) % frames;
    this.draw();
    requestAnimationFrame((begun) => requestAnimationFrame((next) => this.drawn(next - begun)));
    this.wait();
  }

  /** Note how long the page took to draw a frame, in milliseconds. */
  drawn(milliseconds) {
    this.drawing = (this.drawing + milliseconds) / 2;
  }

  draw() {
    const { frames } = this.shown;
    this.image.style.transform = `translateY(${(-100 * this.frame) / frames}%)`;
    this.cursor.style.left = `${(100 * this.frame) / frames}%`;
    this.cursor.style.width = `${100 / frames}%`;
  }

  async show(value) {
    this.newest = value;
    const image = Object.assign(new Image(), { alt: "", src: `data:image/jpeg;base64,${value.picture}` });
    const decoded = image.decode().then(() => true, () => false); // else nothing would be seen until it is
    if (!(await decoded) || this.newest !== value) return;
    const { frames, ratio, seconds, marks } = value;
    const anew = frames !== this.shown?.frames || seconds !== this.shown?.seconds;
    [this.shown, this.image, this.frame] = [value, image, this.frame % frames];
    this.screen.style.aspectRatio = ratio;
    this.image.style.aspectRatio = ratio / frames;
    this.screen.ariaLabel = LABEL();
    this.draw();
    this.screen.replaceChildren(image);
    this.mark(marks ?? []);
    if (anew) this.run();
  }

  /** Which frames belong to which side of a join, where there is one. */
  mark(counts) {
    const key = counts.join();
    if (key === this.marks) return;
    this.marks = key;
    const kinds = Object.keys(MARKS).filter((_, i) => counts[i]);
    if (kinds.length < 2) return this.figure.replaceChildren(this.figure.firstChild);
    const bar = element("div", "reelwire-marks", this.cursor);
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
