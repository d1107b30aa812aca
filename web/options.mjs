/** Values of lists and empty fields of our nodes in the page's language: ComfyUI translates their labels alone.
 *
 * A value stays what it is in graphs and prompts. Beside its word stands what it is called there, as help pages and
 * other people's graphs name it. */
import { sayNow } from "./messages.mjs";

const WORDS = [
  { key: "option_default", text: "default" },
  { key: "option_auto", text: "auto" },
  { key: "option_none", text: "none" },
  { key: "option_as_in_the_file", text: "as in the file" },
  { key: "option_as_it_is", text: "as it is" },
  { key: "option_edges", text: "edges" },
  { key: "option_gray", text: "gray" },
  { key: "option_blur", text: "blur" },
  { key: "option_hold_the_last_frame", text: "hold the last frame" },
  { key: "option_begin_again", text: "begin again" },
  { key: "option_end_with_the_shortest", text: "end with the shortest" },
  { key: "option_hold", text: "hold" },
  { key: "option_block", text: "block" },
  { key: "option_go_on", text: "go on" },
  { key: "option_start_over", text: "start over" },
  { key: "option_frames", text: "frames" },
  { key: "option_source", text: "source" },
  { key: "option_jobs", text: "jobs" },
  { key: "option_context", text: "context" },
  { key: "option_branches", text: "branches" },
  { key: "option_experts", text: "experts" },
  { key: "option_letters", text: "letters" },
  { key: "option_quality", text: "quality" },
  { key: "option_balanced", text: "balanced" },
  { key: "option_speed", text: "speed" },
  { key: "option_distilled", text: "distilled" },
  { key: "option_plan", text: "plan" },
  { key: "option_corrected_plan", text: "corrected plan" },
  { key: "option_calibrated", text: "calibrated" },
  { key: "option_published", text: "published" },
  { key: "option_stack", text: "stack" },
  { key: "option_module", text: "module" },
  { key: "option_keep", text: "0: keep" },
  { key: "option_follow", text: "1: follow" },
];
const words = new Map(WORDS.map((word) => [word.text, { ...word, values: {} }]));
const isFile = (value) => /[/\\]|\.(safetensors|sft|gguf|pth?|ckpt|bin)$/.test(value);

/** Let a node's lists and empty fields speak the page's language. */
export function speakPageLanguage(node) {
  for (const widget of node.widgets ?? []) {
    const { element, label, name, options } = widget;
    if (element?.placeholder === name && label) element.placeholder = label;
    if (widget.type !== "combo" || !hasWords(options?.values)) continue;
    for (const each of [options, widget._state?.options]) if (each) each.getOptionLabel ??= wordOf;
  }
}

/** Whether a list has words. One of files keeps the page's own menu, which can be searched. */
const hasWords = (values) => Array.isArray(values) && values.some((value) => words.has(value)) && !values.some(isFile);

function wordOf(value) {
  const word = words.get(value);
  return word ? sayNow(word) : String(value ?? "");
}
