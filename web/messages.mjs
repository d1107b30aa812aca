/** Messages of the server in the page's language: their texts lie in locales/<language>/main.json. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

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

/** A message in the page's language; its own English text where there is no other. */
export async function translate(message) {
  await loadTexts();
  return sayNow(message);
}

/** The same with the texts that are there by now. */
export function sayNow(message) {
  const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  const texts = (languages[locale] ?? languages[locale.split("-")[0]])?.reelwire?.messages;
  return locale === "en" || !texts ? message.text : say(texts, message);
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

/** The text of a message with its values, which may be messages too. */
function say(texts, { key, values, text }) {
  const word = (value) => (typeof value === "object" ? say(texts, value) : value);
  return texts[key]?.replace(/\{(\w+)\}/g, (_, name) => word(values[name])) ?? text;
}
