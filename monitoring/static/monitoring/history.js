// The three charts of the last 15 minutes: read when the page opens and every half minute; closures also as they come.

import { read } from "./api.js";
import { now } from "./clock.js";
import { timeChart } from "./charts.js";
import { REASONS } from "./closure.js";
import { byId, setText } from "./dom.js";
import { count, duration, shortCount } from "./format.js";
import { paint } from "./paint.js";

const MINUTES = 15;
const EVERY_MS = 30_000;
const MINUTE_MS = 60_000;
const PERCENTILES = [["p50Ms", "p50", "line-pale"], ["p95Ms", "p95", "line-soft"], ["p99Ms", "p99", "line"]];
const QUEUE_COLOURS = { closures: "line", sweep: "violet", default: "other" };

const known = { minutes: [], readAt: 0, error: null, charts: null };

export function start() {
  known.charts = {
    closures: timeChart(byId("chart-closures"), { kind: "bars", zero: true, whole: true, legend: true, text: shortCount }),
    latency: timeChart(byId("chart-latency"), { zero: true, legend: true, text: duration }),
    depth: timeChart(byId("chart-depth"), { zero: true, whole: true, legend: true, text: shortCount }),
  };
  load();
  setInterval(() => document.hidden || load(), EVERY_MS);
  document.addEventListener("visibilitychange", () => document.hidden || load());
}

export const reset = load;

async function load() {
  const asked = now();
  try {
    const { minutes } = await read(`history?minutes=${MINUTES}`);
    known.minutes = minutes.map(fromWire);
    known.readAt = asked;
    known.error = null;
  } catch (error) {
    known.error = error.message;
  }
  paint("history", draw);
}

function fromWire(minute) {
  return {
    at: Date.parse(minute.at),
    closures: new Map(minute.closures.map((one) => [one.reason, one.deals])),
    latency: minute.latency,
    depths: new Map(minute.queues.map((one) => [one.name, one.depth])),
  };
}

/** Add what has just closed to its minute, so that the bars move before the next reading. */
export function closure(data, at) {
  const start = Math.floor(at / MINUTE_MS) * MINUTE_MS;
  if (known.minutes.length === 0 || at < known.readAt) return; // not read yet, or in what was read
  let minute = known.minutes.find((one) => one.at === start);
  if (!minute && start > known.minutes.at(-1).at) {
    minute = { at: start, closures: new Map(), latency: {}, depths: new Map() };
    known.minutes = [...known.minutes.slice(1), minute];
  }
  if (!minute) return;
  for (const { reason, deals } of data.counts) minute.closures.set(reason, (minute.closures.get(reason) ?? 0) + deals);
  paint("history", draw);
}

function draw() {
  const { minutes, charts } = known;
  const last = minutes.at(-1)?.at ?? Math.floor(now() / MINUTE_MS) * MINUTE_MS;
  const ends = { from: last - (MINUTES - 1) * MINUTE_MS, to: last };
  charts.closures.set({ ...ends, series: closureSeries(minutes), name: closuresName(minutes) });
  charts.latency.set({ ...ends, series: latencySeries(minutes), name: latencyName(minutes) });
  charts.depth.set({ ...ends, series: depthSeries(minutes), name: depthName(minutes) });
  empty("chart-closures", minutes.some((one) => one.closures.size), "No closures in 15 minutes.");
  empty("chart-latency", minutes.some((one) => one.latency.deals), "Nothing measured in 15 minutes.");
  empty("chart-depth", minutes.some((one) => [...one.depths.values()].some((depth) => depth !== null)), "No depth was sampled in 15 minutes.");
}

function empty(id, filled, text) {
  const said = byId(id).parentElement.querySelector(".plot-empty");
  said.hidden = filled && known.error === null;
  setText(said, known.error === null ? text : `The history could not be read. ${known.error}`);
}

const closureSeries = (minutes) =>
  Object.entries(REASONS).map(([reason, { word: label, colour }]) => ({
    label, colour, points: minutes.map((one) => ({ x: one.at, y: one.closures.get(reason) ?? 0 })),
  }));

const latencySeries = (minutes) =>
  PERCENTILES.map(([name, label, colour]) => ({
    label, colour, points: minutes.map((one) => ({ x: one.at, y: one.latency[name] ?? null })),
  }));

function depthSeries(minutes) {
  const names = new Set(minutes.flatMap((one) => [...one.depths.keys()]));
  return [...names].map((name) => ({
    label: name, colour: QUEUE_COLOURS[name] ?? "other",
    points: minutes.map((one) => ({ x: one.at, y: one.depths.get(name) ?? null })),
  }));
}

function closuresName(minutes) {
  const sums = Object.entries(REASONS).map(([reason, { word: label }]) => `${label} ${count(minutes.reduce((sum, one) => sum + (one.closures.get(reason) ?? 0), 0))}`);
  return `Closures of the last 15 minutes: ${sums.join(", ")}.`;
}

function latencyName(minutes) {
  const last = minutes.findLast((one) => one.latency.deals);
  if (!last) return "Latency from tick to commit: nothing measured in 15 minutes.";
  return `Latency from tick to commit, latest minute: ${PERCENTILES.map(([name, label]) => `${label} ${duration(last.latency[name])}`).join(", ")}.`;
}

function depthName(minutes) {
  const deepest = Math.max(0, ...minutes.flatMap((one) => [...one.depths.values()].map((depth) => depth ?? 0)));
  return `Depth of the queues in the last 15 minutes: at most ${count(deepest)} messages.`;
}
