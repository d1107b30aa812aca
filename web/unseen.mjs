/** In Nodes 2.0 the browser leaves our nodes out of what it draws while they are out of sight.
 *
 * The page moves the bar of a running node with each picture, for which all that is in the graph counts. Sizes are the
 * page's to measure, so a node is marked when it has had the same one twice, and keeps it until it is seen again.
 */
import { app } from "../../scripts/app.js";
import { isOurs } from "./nodes.mjs";

const [EVERY, MARK] = [1000, "data-reelwire-unseen"]; // ms
const known = new WeakMap(); // element -> {node, size}; the page uses elements again for nodes of another graph

export function skipUnseenNodes() {
  const can = CSS.supports("content-visibility", "auto") && CSS.supports("overflow-clip-margin", "24px");
  if (can) setInterval(markNodes, EVERY); // the margin is what slots and handles take outside of a node
}

function markNodes() {
  for (const box of document.querySelectorAll(".lg-node[data-node-id]")) {
    const node = app.canvas.graph?.getNodeById(box.dataset.nodeId);
    const before = known.get(box);
    if (before && before.node !== node) box.removeAttribute(MARK);
    if (!isOurs(node?.type)) known.delete(box);
    else if (!box.hasAttribute(MARK)) mark(box, node, before);
  }
}

function mark(box, node, before) {
  const size = [box.offsetWidth, box.offsetHeight].map((length) => `auto ${length}px`).join(" ");
  known.set(box, { node, size });
  if (before?.node !== node || before.size !== size) return;
  box.style.containIntrinsicSize = size;
  box.setAttribute(MARK, "");
}
