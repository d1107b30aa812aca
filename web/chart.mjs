/** What a cache did: a row for each branch, a bar for each step, filled where it was computed, a curve of changes. */
import { translate } from "./messages.mjs";

const SVG = "http://www.w3.org/2000/svg";
const [BAR, HEIGHT] = [12, 30]; // of a step; the row is then as wide as the node
const LEGEND = {
  computed: { key: "chart_computed", values: {}, text: "computed" },
  reused: { key: "chart_reused", values: {}, text: "reused" },
  distance: { key: "chart_distance", values: {}, text: "change of what the cache looks at" },
};

/** The chart with its legend, as an element. */
export async function drawChart({ rows }) {
  const figure = document.createElement("figure");
  const curves = rows.map(curveOf);
  const names = Object.keys(LEGEND).filter((name) => name !== "distance" || curves.some(Boolean));
  const titles = await Promise.all(rows.map((row) => translate(row.name)));
  const drawn = rows.flatMap((row, i) => [label("div", titles[i]), drawRow(row, curves[i])]);
  figure.append(...drawn, await legend(names));
  return figure;
}

function drawRow({ computed }, curve) {
  const svg = shape("svg", { viewBox: `0 0 ${computed.length * BAR} ${HEIGHT}`, preserveAspectRatio: "none" });
  const bars = computed.map((whole, step) =>
    shape("rect", {
      x: step * BAR + 1,
      width: BAR - 2,
      height: HEIGHT,
      class: `reelwire-${whole ? "computed" : "reused"}`,
    }),
  );
  svg.append(...bars, ...(curve ? [shape("polyline", { points: curve, class: "reelwire-distance" })] : []));
  return svg;
}

/** The points of a row's curve, the largest change on top; empty where there are not two. */
function curveOf({ distances }) {
  const known = distances.flatMap((distance, step) => (distance ? [[(step + 0.5) * BAR, distance]] : []));
  const most = Math.max(...known.map(([, distance]) => distance));
  return known.length > 1 ? known.map(([x, distance]) => `${x},${HEIGHT * (1 - distance / most)}`).join(" ") : "";
}

async function legend(names) {
  const caption = document.createElement("figcaption");
  const words = await Promise.all(names.map((name) => translate(LEGEND[name])));
  caption.append(...names.map((name, i) => label("span", words[i], `reelwire-key reelwire-key-${name}`)));
  return caption;
}

function label(tag, textContent, className = "") {
  return Object.assign(document.createElement(tag), { textContent, className });
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
