/** The page's side of Reelwire: results, words and errors on its nodes, and colours of its types. */
import { app } from "../../scripts/app.js";
import { keepTypeColours } from "./colours.mjs";
import { listenForErrors } from "./errors.mjs";
import { loadTexts } from "./messages.mjs";
import { showAgain } from "./live/pictures.mjs";
import { isOurs } from "./nodes.mjs";
import { leaveOutPanel } from "./panel.mjs";
import { writePrefixOut } from "./prefixes.mjs";
import { endsWithVideo, listenForResults, showAfterReload, showOutputs } from "./results.mjs";

function addStyle() {
  const style = { rel: "stylesheet", href: new URL("reelwire.css", import.meta.url).href };
  document.head.append(Object.assign(document.createElement("link"), style));
}

app.registerExtension({
  name: "reelwire.page",

  setup() {
    for (const feature of [addStyle, loadTexts, keepTypeColours, listenForResults, listenForErrors]) {
      try {
        feature();
      } catch (error) {
        console.error(`Reelwire: ${feature.name} does not work in this version of ComfyUI's page.`, error);
      }
    }
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData.name)) return;
    const { onSerialize } = nodeType.prototype;
    Object.assign(nodeType.prototype, {
      onSerialize(saved) {
        onSerialize?.call(this, saved);
        leaveOutPanel(this, saved);
      },
      onDrawBackground() {}, // LiteGraph would draw previews and videos a second time
    });
  },

  nodeCreated(node) {
    if (isOurs(node.comfyClass)) writePrefixOut(node);
    if (endsWithVideo(node.comfyClass)) node.hideOutputImages = true; // and so would Nodes 2.0
  },

  onNodeOutputsUpdated: showOutputs,

  afterConfigureGraph() {
    showAgain();
    showAfterReload(); // not waited for, nor does the page
  },
});
