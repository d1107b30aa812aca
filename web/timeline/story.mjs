/** A timeline as data: read from its JSON, changed, and written again with all that was not changed as it stood. */

const KEYS = {
  timeline: ["unit", "prompts", "negative", "keyframes"],
  prompts: ["at", "text"],
  keyframes: ["at", "image", "strength"],
};
const OF_TEXT = { text: true, image: true };

/** What a text says, to be drawn; undefined for one that cannot be. Whether it is a timeline the server says. */
export function readStory(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(content) || !known(content, KEYS.timeline)) return undefined;
  const { unit = "seconds", prompts, negative = "", keyframes = [] } = content;
  const lists = { prompts, keyframes };
  const drawable = Object.entries(lists).every(([name, list]) => Array.isArray(list) && list.every(entryOf(name)));
  const whole = drawable && prompts.length > 0 && typeof negative === "string";
  return whole && ["seconds", "frames"].includes(unit) ? content : undefined;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const known = (entry, keys) => Object.keys(entry).every((key) => keys.includes(key));

/** Whether something is an entry of a list. */
const entryOf = (name) => (entry) => {
  if (!isObject(entry) || !known(entry, KEYS[name])) return false;
  const needed = KEYS[name].filter((key) => key !== "strength" || key in entry);
  return needed.every((key) => (OF_TEXT[key] ? typeof entry[key] === "string" : Number.isFinite(entry[key])));
};

export const unitOf = (story) => story.unit ?? "seconds";
export const promptsOf = (story) => story.prompts;
export const picturesOf = (story) => story.keyframes ?? [];
export const listOf = (story, kind) => (kind === "prompts" ? promptsOf(story) : picturesOf(story));

/** The story with other values in one entry; undefined takes a value away. */
export function change(story, kind, index, values) {
  const list = listOf(story, kind).map((entry, i) => (i === index ? withValues(entry, values) : entry));
  return { ...story, [kind]: list };
}

function withValues(entry, values) {
  const changed = { ...entry, ...values };
  return Object.fromEntries(Object.entries(changed).filter(([, value]) => value !== undefined));
}

/** The story with an entry more, before the one of this index. */
export function insert(story, kind, index, entry) {
  const list = [...listOf(story, kind)];
  list.splice(index, 0, entry);
  return { ...story, [kind]: list };
}

/** The story without an entry; the prompt after the first then begins the video. The last prompt stays. */
export function remove(story, kind, index) {
  const list = listOf(story, kind).filter((_, i) => i !== index);
  if (kind === "prompts") {
    if (!list.length) return story;
    if (index === 0) list[0] = { ...list[0], at: 0 };
  }
  return { ...story, [kind]: list };
}

/** The JSON of a story, an entry on each line. */
export function writeStory(story) {
  const lines = Object.entries(story).map(([key, value]) => `  ${JSON.stringify(key)}: ${written(value)}`);
  return `{\n${lines.join(",\n")}\n}`;
}

function written(value) {
  if (!Array.isArray(value)) return JSON.stringify(value);
  return value.length ? `[\n${value.map((entry) => `    ${onOneLine(entry)}`).join(",\n")}\n  ]` : "[]";
}

const onOneLine = (entry) =>
  `{${Object.entries(entry)
    .map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`)
    .join(", ")}}`;
