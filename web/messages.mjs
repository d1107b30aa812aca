/** Messages of the server in the page's language: their texts lie in locales/<language>/main.json. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let languages;

/** A message in the page's language; its own text where there is no translation. */
export async function translate({ key, values, text }) {
  languages ??= api.fetchApi("/i18n").then((response) => response.json());
  const template = (await languages)[app.extensionManager.setting.get("Comfy.Locale")]?.reelwire?.messages?.[key];
  return template?.replaceAll(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole) ?? text;
}
