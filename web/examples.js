// The templates' example pictures: workflows/inputs/, which ComfyUI serves beside the templates. A graph that asks for
// one that the input folder lacks gets it there, by the page's own upload, and says so.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SHIPPED = ["reelwire_left.png", "reelwire_right.png", "reelwire_clip.mp4"];
const TIMELINES = ["ReelwireLongVideo", "ReelwireTimeline"]; // whose first widget names pictures
const WIDGETS = { LoadImage: "image", LoadVideo: "file" };
const PACK = new URL(import.meta.url).pathname.split("/").at(-2); // the folder may have any name
const SERVED = `/workflow_templates/${PACK}/inputs/`;

// templates that run on the model that comes with the pack: the gallery shows them first, the others by their names
const FIRST = [
  "Text to video - any model",
  "Image to video - LTX-Video",
  "First and last picture to video - LTX-Video",
  "Video to video - any model",
  "Extend a clip - any model",
  "Compare models - any model",
  "Several prompts and seeds in one run - any model",
  "Text to video, faster with a cache - any model",
  "Long video with several prompts - LTX-Video",
];

const ours = (name) => SHIPPED.includes(name);

/** Names of the example files that the nodes of a saved graph ask for. */
function asked(graph) {
  const nodes = [graph, ...(graph.definitions?.subgraphs ?? [])].flatMap((part) => part.nodes ?? []);
  const names = nodes.filter((node) => node.type in WIDGETS).flatMap((node) => node.widgets_values ?? []);
  const stories = nodes.filter((node) => TIMELINES.includes(node.type)).map((node) => node.widgets_values?.[0]);
  return SHIPPED.filter((name) => names.includes(name) || stories.some((text) => String(text).includes(`"${name}"`)));
}

/** Whether the input folder holds a file. */
async function isThere(name) {
  const answer = await api.fetchApi(`/view?filename=${encodeURIComponent(name)}&type=input`, { method: "HEAD" });
  return answer.ok;
}

/** Put a shipped file into the input folder. */
async function upload(name) {
  const shipped = await api.fetchApi(SERVED + name);
  if (!shipped.ok) throw new Error(`${SERVED + name}: ${shipped.status}`);
  const body = new FormData();
  body.append("image", new File([await shipped.blob()], name));
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`/upload/image: ${answer.status}`);
}

async function say(names) {
  const { translate } = await import("./messages.mjs");
  const values = { names: names.join(", ") };
  const text = `The example files of this template were put into ComfyUI's input folder: ${values.names}.`;
  const detail = await translate({ key: "template_inputs", values, text });
  app.extensionManager.toast.add({ severity: "info", summary: "Reelwire", detail, life: 8000 });
}

/** Let the node's list name the file: it was made before the file was there. */
function offer(node) {
  const widget = node.widgets?.find((candidate) => candidate.name === WIDGETS[node.type]);
  const values = widget?.options?.values;
  if (ours(widget?.value) && Array.isArray(values) && !values.includes(widget.value)) values.push(widget.value);
}

const place = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);

/** ComfyUI lists templates as they lie on the disk, in no order. */
function sortTemplates() {
  const own = api.getWorkflowTemplates;
  api.getWorkflowTemplates = async function (...args) {
    const templates = await own.apply(this, args);
    templates?.[PACK]?.sort((one, other) => place(one) - place(other) || one.localeCompare(other));
    return templates;
  };
}

app.registerExtension({
  name: "reelwire.examples",
  setup: sortTemplates,
  async beforeConfigureGraph(graph) {
    try {
      const names = asked(graph);
      const there = await Promise.all(names.map(isThere));
      const missing = names.filter((_, i) => !there[i]);
      await Promise.all(missing.map(upload));
      if (missing.length) await say(missing);
    } catch (error) {
      console.error("Reelwire could not put a template's example files into the input folder:", error);
    }
  },
  loadedGraphNode: offer,
});
