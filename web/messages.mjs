/** Messages of the server in the page's language: their texts lie in locales/<language>/main.json. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let languages;

/** A message in the page's language; its own English text where there is no other. A refusal, of which the page has the
 * text alone, is looked up at the server. */
export async function translate({ key, values, text }) {
  const texts = await pageTexts();
  if (!texts) return text;
  const known = key ? { key, values, text } : await refusalOf(text);
  return say(texts, known ?? { text });
}

/** Key -> text in the page's language; nothing in English, which the messages bring along. */
async function pageTexts() {
  const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  if (locale === "en") return;
  languages ??= fetchJson("/i18n").catch(() => ({}));
  const all = await languages;
  return (all[locale] ?? all[locale.split("-")[0]])?.reelwire?.messages;
}

async function refusalOf(text) {
  const refusals = await fetchJson("/reelwire/refusals").catch(() => []);
  return refusals.findLast((refusal) => text.endsWith(refusal.text));
}

async function fetchJson(path) {
  return (await api.fetchApi(path)).json();
}

/** The text of a message with its values, which may be messages too. */
function say(texts, { key, values, text }) {
  const word = (value) => (typeof value === "object" ? say(texts, value) : value);
  return texts[key]?.replace(/\{(\w+)\}/g, (_, name) => word(values[name])) ?? text;
}
