// A line as small as a word: where a price came from in the last quarter of an hour. An ornament: hidden from readers.

const WIDTH = 96;
const HEIGHT = 24;
const SPAN_MS = 15 * 60_000;
const NAMESPACE = "http://www.w3.org/2000/svg";

export function spark() {
  const element = document.createElementNS(NAMESPACE, "svg");
  for (const [name, value] of Object.entries({
    class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true",
  })) element.setAttribute(name, value);
  const line = document.createElementNS(NAMESPACE, "polyline");
  element.append(line);
  return { element, draw: (points) => draw(element, line, points) };
}

function draw(element, line, points) {
  if (points.length < 2) return;
  const last = points.at(-1)[0];
  const inside = points.filter(([at]) => at > last - SPAN_MS);
  const values = inside.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const height = (value) => (high === low ? HEIGHT / 2 : 2 + ((high - value) / (high - low)) * (HEIGHT - 4));
  const text = inside.map(([at, value]) => `${(WIDTH * (1 - (last - at) / SPAN_MS)).toFixed(1)},${height(value).toFixed(1)}`).join(" ");
  if (line.getAttribute("points") !== text) line.setAttribute("points", text);
  element.classList.toggle("falls", values.at(-1) < values[0]);
}
