// Which widgets of a node count, by what the server sends beside each input: {"reelwire": {"when": {...}}}. A condition
// names another input and the values that it must have, or true where something must be connected to it, or {"not": the
// values that it must not have}, or "family" and the families of which the model must be.

const told = (definition) => ({ ...definition?.input?.required, ...definition?.input?.optional });

/** Input name -> the conditions under which it counts, of a node's definition. */
export function conditions(definition) {
  const entries = Object.entries(told(definition)).map(([name, spec]) => [name, spec?.[1]?.reelwire?.when]);
  return Object.fromEntries(entries.filter(([, needed]) => needed));
}

/** The family of a loader's models; undefined for all other nodes. */
export const loads = (definition) => told(definition).checkpoint?.[1]?.reelwire?.family;

/** The family of the model that comes to a node; undefined where that is not known. families: node type -> family. */
export function familyOf(node, families) {
  for (let hops = 0; node && hops < 50; hops++) {
    if (families.has(node.comfyClass)) return families.get(node.comfyClass);
    const link = node.inputs?.find((input) => input.name === "model")?.link;
    node = link == null ? undefined : node.graph?.getNodeById(node.graph.getLink(link)?.origin_id);
  }
}

function holds(node, name, wanted, family) {
  if (name === "family") return family === undefined || wanted.includes(family);
  const linked = node.inputs?.some((input) => input.name === name && input.link != null);
  const value = node.widgets?.find((w) => w.name === name)?.value;
  if (wanted.not) return linked || !wanted.not.includes(value);
  return wanted === true ? linked : linked || wanted.includes(value);
}

/** Whether a widget may be hidden: it does nothing, has its default, and nothing is connected to it. */
export function idle(node, widget, needed, initial, family) {
  const linked = node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
  const counts = Object.entries(needed).every(([name, wanted]) => holds(node, name, wanted, family));
  return !counts && !linked && widget.value === initial;
}

/** The widget's default, as the server says it. */
export const initialValue = (definition, name) => told(definition)[name]?.[1]?.default;
