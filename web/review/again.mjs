/** The run that a held prompt has ended, queued anew as it was, for the page that had queued it. */
import { api } from "../../../scripts/api.js";
import { fetchHistory } from "../results.mjs";

const NODE = "ReelwirePromptReview";
const RECENT = 64; // runs that are looked through

/** Whether there was such a run; raises an Error where the server refuses it. id: of the prompt. */
export async function queueAgain(id) {
  const entry = (await fetchHistory(`?max_items=${RECENT}`)).findLast((each) => endedBy(each, id));
  if (!entry) return false;
  const [, , prompt, extra] = entry.prompt;
  const { client_id = api.clientId, ...extra_data } = extra;
  const request = { method: "POST", headers: { "Content-Type": "application/json" } };
  const answer = await api.fetchApi("/prompt", {
    ...request,
    body: JSON.stringify({ prompt, client_id, extra_data }),
  });
  if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
  return true;
}

/** Whether a run ended because a prompt was held: its error names the whole id. */
function endedBy({ status }, id) {
  const errors = (status?.messages ?? []).filter(([kind]) => kind === "execution_error");
  return errors.some(([, { node_type, exception_message }]) => node_type === NODE && exception_message.includes(id));
}
