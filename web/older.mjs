/** Values of saved widgets by their names: a graph of another version may have fewer, more, or another order. */
import { initialValue } from "./widgets.mjs";

const NAMES = "reelwire_widgets"; // property of a saved node: the names of its values, in their order

const savedOnes = (node) => (node.widgets ?? []).filter((widget) => widget.serialize !== false);

/** Write beside the values of a saved node whose they are. */
export function nameValues(node, saved) {
  const names = savedOnes(node).map(({ name }) => name);
  if (names.length) saved.properties = { ...saved.properties, [NAMES]: names };
}

/** A saved node with a value for each widget that there is now, in their order: its own, else the default. Graphs of
 * 0.1 tell no names; the widgets of then are still the first ones. */
export function withAllValues(node, saved) {
  const { widgets_values: values, properties } = saved;
  if (!Array.isArray(values)) return saved;
  const names = properties?.[NAMES];
  const placeOf = ({ name }, at) => (names ? names.indexOf(name) : at < values.length ? at : -1);
  const now = savedOnes(node).map((widget, at) => {
    const place = placeOf(widget, at);
    return place >= 0 ? values[place] : initialValue(node.constructor.nodeData, widget.name) ?? widget.value;
  });
  return { ...saved, widgets_values: now };
}
