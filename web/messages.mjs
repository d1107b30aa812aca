/** A message in the page's language; its own text where there is no translation. */
export async function translate({ text }) {
  return text;
}
