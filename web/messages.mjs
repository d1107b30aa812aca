/** Messages of the server in the page's language: their texts lie in locales/<language>/main.json. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { isOurs } from "./nodes.mjs";

let languages = {}; // language -> what /i18n has of it
let loading;

/** Have the texts of all languages, so that the first message can be said at once. */
export const loadTexts = () => (loading ??= fetchTexts());

async function fetchTexts() {
  try {
    languages = await (await api.fetchApi("/i18n")).json();
  } catch (error) {
    loading = undefined; // for the next one to try
    console.warn("Reelwire could not load its texts:", error);
  }
}

/** A message in the page's language; its own English text where there is no other. node: that says it, if one does. */
export async function translate(message, node) {
  await loadTexts();
  return sayNow(message, node);
}

/** What a node says, each in the page's language. */
export const translateAll = (messages, node) => Promise.all(messages.map((message) => translate(message, node)));

/** A message with the texts that are there by now. */
export function sayNow(message, node) {
  const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  const known = languages[locale] ?? languages[locale.split("-")[0]];
  if (locale === "en" || !known?.reelwire?.messages) return message.text;
  return say(known.reelwire.messages, message, (id) => labelOf(known.nodeDefs, id, node?.type));
}

/** One of the page's own words, in its language; empty while the texts are not there. */
export function phrase(key, values = {}) {
  const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  const known = [locale, locale.split("-")[0], "en"].map((name) => languages[name]?.reelwire?.messages).find(Boolean);
  return known ? say(known, { key, values, text: "" }, (id) => id) : "";
}

/** The message of a refusal, of which the page has the text alone. */
export async function refusalOf(text) {
  const plain = { key: "", values: {}, text };
  try {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }) };
    const answer = await api.fetchApi("/reelwire/refusal", request);
    return (answer.ok && (await answer.json())) || plain;
  } catch {
    return plain; // it is said in English
  }
}

const PLACE = /\{(\w+)\}/g;
const FORMS = /\{(\w+)\|((?:[^{}|]|\{\w+\})*)\|((?:[^{}|]|\{\w+\})*)\}/g; // {count|one|many}

/** The text of a message with its values, which may be messages too. label: of an input, by its name. */
function say(texts, { key, values, text }, label) {
  if (key === "input_name") return label(values.id);
  const word = (value) => (typeof value === "object" ? say(texts, value, label) : value);
  return texts[key] === undefined ? text : filled(texts[key], values, word);
}

/** A text with its values. word: what is written for one. */
export function filled(text, values, word = (value) => value) {
  const form = (_, name, one, many) => (Number(values[name]) === 1 ? one : many);
  return text.replace(FORMS, form).replace(PLACE, (_, name) => word(values[name]));
}

/** What the page calls an input of a type of node; of another of ours where that one has no such input. */
function labelOf(definitions, id, type) {
  const own = definitions?.[type]?.inputs?.[id]?.name;
  if (own) return own;
  const all = Object.entries(definitions ?? {}).filter(([name]) => isOurs(name));
  return all.map(([, { inputs }]) => inputs?.[id]?.name).find(Boolean) ?? id;
}
