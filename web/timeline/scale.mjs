/** The axis of a timeline: where its entries lie, in frames where those are known, and where they may lie. */
import { picturesOf, promptsOf, unitOf } from "./story.mjs";

const TENTHS = 10; // of a second, where nobody knows how many frames it has

export class Scale {
  /** fps, frames, step: of the video, undefined where not known. */
  constructor(story, { fps, frames, step }) {
    const inSeconds = unitOf(story) === "seconds";
    this.fps = fps;
    this.perUnit = inSeconds ? (fps ?? TENTHS) : 1;
    this.inFrames = !inSeconds || Boolean(fps);
    this.step = (this.inFrames && step) || 1;
    this.first = this.inFrames && step ? 1 : 0; // of a window's frames, that come after those that it shares
    this.hasEnd = Boolean(this.inFrames && frames);
    this.last = Math.max(this.hasEnd ? frames - 1 : this.#lastOf(story), this.step);
  }

  /** Where an axis without a known end ends: a little after what lies on it. */
  #lastOf(story) {
    const entries = [...promptsOf(story), ...picturesOf(story)].map(({ at }) => Math.abs(at) * this.perUnit);
    return Math.ceil(Math.max(...entries, this.inFrames ? 24 : 4 * TENTHS) * 1.25);
  }

  /** The position of an entry, as the server counts: from the end where it is below 0. */
  position({ at }) {
    const place = roundHalfToEven(at * this.perUnit);
    return at < 0 ? this.last + 1 + Math.min(place, -1) : place;
  }

  /** What an entry says to lie at a position. */
  at(position) {
    return Number((position / this.perUnit).toFixed(this.fps ? 3 : 1));
  }

  seconds(position) {
    if (this.inFrames) return this.fps ? position / this.fps : undefined;
    return position / TENTHS;
  }

  /** The position of a time in seconds. */
  ofSeconds(seconds) {
    return seconds * (this.inFrames ? (this.fps ?? 1) : TENTHS);
  }

  share(position) {
    return Math.min(Math.max(position / this.last, 0), 1);
  }

  get units() {
    return Math.floor(this.last / this.step);
  }

  unitOf(position) {
    return Math.round((position - this.first) / this.step);
  }

  /** The units of the grid in which a prompt may begin, from after the one before to before the one behind. */
  promptUnits(story, index) {
    const prompts = promptsOf(story);
    if (index === 0) return [0, 0];
    const before = index === 1 ? 0 : this.unitOf(this.position(prompts[index - 1]));
    const next = prompts[index + 1];
    return [before + 1, next ? this.unitOf(this.position(next)) - 1 : this.units - 1];
  }

  ofUnit(unit) {
    return unit * this.step + this.first;
  }

  /** The place of the grid for a prompt that is nearest to a position; undefined where there is none. */
  promptPlace(story, index, position) {
    if (index === 0) return 0;
    const [low, high] = this.promptUnits(story, index);
    return low > high ? undefined : this.ofUnit(clamp(this.unitOf(position), low, high));
  }

  /** The place of the grid for a picture that is nearest to a position. */
  picturePlace(position, step = this.step) {
    return clamp(Math.round(position / step) * step, 0, this.last);
  }
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** As Python rounds, which places what the server renders. */
function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

/** The distance of marks, of 1, 2 or 5 and so on seconds or frames, that lie at least so many positions apart. */
export function markEvery(least) {
  for (let power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-3))); ; power *= 10)
    for (const step of [1, 2, 5]) if (step * power >= least) return Number((step * power).toPrecision(1));
}
