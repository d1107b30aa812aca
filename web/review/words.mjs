/** Sentences of the page itself: in its language, in English where that has no text of ours. */
import { filled, sayNow } from "../messages.mjs";

/** A function that says one of these texts by its key, with values. */
export function sayer(texts) {
  const english = Object.fromEntries(texts.map(({ key, text }) => [key, text]));
  return (key, values = {}) => sayNow({ key, values, text: filled(english[key], values) });
}
