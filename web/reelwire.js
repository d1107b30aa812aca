/** The page's side of Reelwire: results, words and errors on its nodes, and colours of its types. */
import { app } from "../../scripts/app.js";
import { keepTypeColours } from "./colours.mjs";
import { listenForErrors } from "./errors.mjs";
import { loadTexts } from "./messages.mjs";
import { showAgain } from "./live/pictures.mjs";
import { endsWithVideo, isOurs, makeRoomForNames } from "./nodes.mjs";
import { nameValues, withAllValues } from "./older.mjs";
import { speakPageLanguage } from "./options.mjs";
import { leaveOutPanel } from "./panel.mjs";
import { writePrefixOut } from "./prefixes.mjs";
import { addReviewButton, listenForReview } from "./review/desk.mjs";
import { listenForResults, showAfterReload, showOutputs } from "./results.mjs";
import { showOnSubgraph, timelineWidgets } from "./timeline/widget.mjs";
import { skipUnseenNodes } from "./unseen.mjs";

function addStyle() {
  for (const name of ["reelwire.css", "timeline/timeline.css"]) {
    const style = { rel: "stylesheet", href: new URL(name, import.meta.url).href };
    document.head.append(Object.assign(document.createElement("link"), style));
  }
}

const FEATURES = [
  addStyle, loadTexts, keepTypeColours, listenForResults, listenForErrors, listenForReview, skipUnseenNodes,
];
const NEW_NODES = [writePrefixOut, speakPageLanguage, makeRoomForNames];

app.registerExtension({
  name: "reelwire.page",

  setup() {
    for (const feature of FEATURES) {
      const failed = (error) =>
        console.error(`Reelwire: ${feature.name} does not work in this version of ComfyUI's page.`, error);
      try {
        feature()?.catch?.(failed);
      } catch (error) {
        failed(error);
      }
    }
  },

  getCustomWidgets: timelineWidgets,

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData.name)) return;
    const { configure, onSerialize } = nodeType.prototype;
    Object.assign(nodeType.prototype, {
      configure(saved) {
        return configure.call(this, withAllValues(this, saved));
      },
      onSerialize(saved) {
        onSerialize?.call(this, saved);
        leaveOutPanel(this, saved);
        nameValues(this, saved);
      },
      onDrawBackground() {}, // LiteGraph would draw previews and videos a second time
    });
  },

  nodeCreated(node) {
    showOnSubgraph(node);
    if (isOurs(node.comfyClass)) for (const act of NEW_NODES) act(node);
    addReviewButton(node)?.catch?.(console.error);
    if (!endsWithVideo(node.comfyClass)) return;
    node.hideOutputImages = true; // and so would Nodes 2.0
    node.previewMediaType = "video"; // which it shows on the node of a subgraph
  },

  onNodeOutputsUpdated: showOutputs,

  afterConfigureGraph() {
    showAgain();
    showAfterReload(); // not waited for, nor does the page
  },
});
