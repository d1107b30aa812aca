/** What a run leaves on its nodes, from the first note to the video, and again after a reload of the page. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { drawChart } from "./chart.mjs";
import { drawTable } from "./compare/table.mjs";
import { translateAll } from "./messages.mjs";
import { endsWithVideo, nodeOf, ourNodes, outputName, rootGraph } from "./nodes.mjs";
import { show } from "./panel.mjs";
import { done, dropPreview, listenForPictures } from "./live/pictures.mjs";
import { hear, isShown, workflowOf } from "./prompts.mjs";

const SHOWN = /\.(mp4|webm|gif)$/; // files that browsers show
// node -> what it has said in this run, passing: the last of it gives way to the next; or a mark of what it shows since
const latest = new WeakMap();
const outputs = new WeakMap(); // node -> the output that it shows
let running; // the node that runs now

export function listenForResults() {
  let prompt_id; // of what runs now
  for (const event of ["execution_start", "progress_state"])
    api.addEventListener(event, ({ detail }) => (prompt_id = detail.prompt_id));
  api.addEventListener("executing", ({ detail }) => hear({ prompt_id }, detail, begin, () => (running = undefined)));
  api.addEventListener("reelwire.note", ({ detail }) => hear(detail, detail.node, (node) => note(node, detail)));
  listenForPictures();
  api.addEventListener("executed", executed);
  for (const end of ["execution_error", "execution_interrupted"])
    api.addEventListener(end, ({ detail }) => hear(detail, undefined, () => ourNodes().forEach(dropPassing)));
}

/** A node that runs anew has said nothing yet; its last video stays until something else can be seen. */
function begin(node) {
  running = node;
  if (!node) return;
  latest.set(node, { kept: [], passing: [] });
  show(node, { lines: [], chart: undefined, table: undefined, live: undefined, preview: undefined });
}

/** What a node said of a run under way is not so any more. */
function dropPassing(node) {
  if (latest.get(node)?.passing?.length) note(node, { messages: [], passing: true });
}

async function note(node, { messages, passing }) {
  if (!node) return;
  if (!latest.get(node)?.kept) latest.set(node, { kept: [], passing: [] });
  const said = latest.get(node);
  if (passing) said.passing = messages;
  else said.kept.push(...messages);
  const lines = await translateAll([...said.passing, ...said.kept], node);
  if (latest.get(node) === said) show(node, { lines });
}

/** Show and remember an output. One of another workflow is taken from the shown one's, where the page puts it too. */
function executed({ detail }) {
  const id = detail.display_node ?? detail.node;
  hear(detail, id, (node) => node && keep(node, id, detail), (node) => node && giveBack(node, detail));
}

function keep(node, id, { output, prompt_id }) {
  done(id);
  if (endsWithVideo(node.type)) dropPreview(id, outputName(node));
  showOutput(node, output);
  remember(id, prompt_id);
}

function giveBack(node, { output }) {
  const name = outputName(node);
  if (JSON.stringify(app.nodeOutputs[name]) !== JSON.stringify(output)) return; // the page may keep a copy
  delete app.nodeOutputs[name];
  if (outputs.get(node)) app.nodeOutputs[name] = outputs.get(node);
}

const parsed = (texts) => (texts ?? []).map((text) => JSON.parse(text));

/** Show what a node put out, unless it runs anew or has put out something else by the time that its words are there. */
async function showOutput(node, output) {
  const mark = {};
  latest.set(node, mark);
  outputs.set(node, output);
  const [chart] = parsed(output?.reelwire_chart);
  const [table] = parsed(output?.reelwire_table);
  const file = output?.images?.find(({ filename }) => SHOWN.test(filename));
  const video = endsWithVideo(node.type) && file && api.apiURL(`/view?${new URLSearchParams(file)}`);
  const messages = parsed(output?.reelwire);
  const drawn = [translateAll(messages, node), chart && drawChart(chart), table && drawTable(table, node)];
  const [lines, figure, figures] = await Promise.all(drawn);
  if (latest.get(node) !== mark) return;
  const ended = endsWithVideo(node.type) && { preview: undefined, live: undefined };
  show(node, { lines, chart: figure, table: figures, video, ...ended });
}

/** Show what the page has kept of all nodes, as when another tab was looked at; but for the node that runs now. */
export function showOutputs(kept) {
  for (const node of ourNodes()) if (node !== running) showOutput(node, kept[outputName(node)]);
}

// ---------------------------------------------------------------- after a reload

// workflow -> node -> the prompt for which it last put something out, in this tab of the browser
const STORE = "reelwire.prompts";
const before = read();

const workflowName = () => app.extensionManager.workflow?.activeWorkflow?.path;

function read() {
  return JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
}

function remember(id, prompt) {
  const all = read();
  all[workflowName()] = { ...all[workflowName()], [id]: prompt };
  sessionStorage.setItem(STORE, JSON.stringify(all));
}

/** The page forgets all outputs when it is loaded; the server has those of each run. */
export async function showAfterReload() {
  const name = await openedOf(before);
  const prompts = before[name];
  delete before[name];
  if (!prompts) return;
  const entries = await Promise.all([...new Set(Object.values(prompts))].map(historyOf));
  const later = (await fetchHistory(`?max_items=${RECENT}`)).filter(isOfThis); // ended while another tab was in front
  if (name !== workflowName()) return;
  app.nodeOutputs = { ...Object.assign({}, ...[...entries, ...later].map(outputsOf)), ...app.nodeOutputs };
}

/** The workflow that was just loaded, if it is one of these: the page names it a while after its graph is there. */
async function openedOf(workflows) {
  for (let waited = 0; waited < 30000 && Object.keys(workflows).length; waited += 100) {
    if (workflows[workflowName()]) return workflowName();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const RECENT = 64; // runs, oldest first
const isOfThis = (entry) => workflowOf(entry) === rootGraph().id;

/** What a run of this workflow has left on nodes that are still there, under the names by which the page knows them. */
function outputsOf(entry) {
  if (!entry || !isShown(workflowOf(entry))) return {};
  const found = Object.entries(entry.outputs).map(([id, output]) => [nodeOf(id), id, output]);
  const same = found.filter(([node, id]) => node && entry.prompt[2][id]?.class_type === node.type);
  return Object.fromEntries(same.map(([node, , output]) => [outputName(node), output]));
}

const historyOf = async (prompt) => (await fetchHistory(`/${prompt}`))[0];

/** Entries of the server's history, the oldest first. which: "/<prompt>" or "?max_items=<count>". */
export async function fetchHistory(which) {
  const response = await api.fetchApi(`/history${which}`);
  return Object.values(parse(await response.text()));
}

/** JSON as Python writes it: a number that is none, in anybody's prompt or output, stands there as NaN or Infinity. */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    const tokens = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g;
    return JSON.parse(text.replace(tokens, (token) => (token[0] === '"' ? token : "null")));
  }
}
