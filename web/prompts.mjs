/** Which workflow a prompt was queued from: the nodes of each are numbered from 1, so an id alone does not tell. */
import { api } from "../../scripts/api.js";
import { nodeOf, rootGraph } from "./nodes.mjs";

const NO_ID = "00000000-0000-0000-0000-000000000000"; // of a graph that was made from an API prompt
const workflows = new Map(); // prompt -> its workflow's id; undefined where the server does not know it

/** Whether a workflow is the one that the page shows; one without an id may be. */
export const isShown = (workflow) => !workflow || workflow === NO_ID || workflow === rootGraph().id;

/** The id of the workflow that an entry of the server's history was queued from. */
export const workflowOf = (entry) => entry?.prompt[3]?.extra_pnginfo?.workflow?.id;

/** Note what the server has told of a prompt, and whether its workflow is shown, as far as that is known by now. */
export function isFromHere({ prompt_id, workflow }) {
  if (workflow) workflows.set(prompt_id, workflow);
  return isShown(workflows.get(prompt_id));
}

/** Ask the server for a prompt's workflow; once for each. */
export async function lookUp(prompt) {
  if (!prompt || workflows.has(prompt)) return;
  workflows.set(prompt, undefined);
  try {
    const answer = await api.fetchApi(`/jobs/${prompt}`);
    if (answer.ok) workflows.set(prompt, (await answer.json()).workflow_id);
  } catch (error) {
    console.warn("Reelwire could not ask for the workflow of a prompt:", error);
  }
}

let order = Promise.resolve();

/** Do something with one of our nodes if its prompt is from here, else something else; in the order of the events. */
export function hear(detail, id, act, otherwise = () => {}) {
  order = order.then(async () => {
    try {
      await lookUp(detail.prompt_id);
      const node = nodeOf(id);
      if (isFromHere(detail)) act(node);
      else otherwise(node);
    } catch (error) {
      console.error("Reelwire could not show what a run has told:", error);
    }
  });
}
