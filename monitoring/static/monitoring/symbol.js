// One symbol in a dialog: its price, the triggers that wait near it as lines, and its closures as marks.

import { dealAddress, read } from "./api.js";
import { candlePoints } from "./candles.js";
import { timeChart } from "./charts.js";
import { REASONS, profit, reasonChip, reasonWord } from "./closure.js";
import { byId, linked, make, setText } from "./dom.js";
import { clockSeconds, count, exactPrice, roundPrice, signedMoney, wholeTime } from "./format.js";

const EVERY_MS = 5_000;
const LISTED = 20;

const shown = { symbol: null, minutes: 60, chart: null, timer: null };

export function start() {
  byId("symbol-close").addEventListener("click", () => byId("symbol").close());
  byId("symbol").addEventListener("close", stop);
  for (const button of spans()) button.addEventListener("click", () => choose(Number(button.dataset.minutes)));
}

export function openSymbol(symbol) {
  Object.assign(shown, { symbol });
  setText(byId("symbol-title"), symbol);
  setText(byId("symbol-price"), "");
  byId("symbol-closures").replaceChildren();
  byId("symbol").showModal();
  shown.chart ??= timeChart(byId("symbol-chart"), { text: roundPrice, name: `Price of ${symbol}` });
  load();
  shown.timer = setInterval(() => document.hidden || load(), EVERY_MS);
}

const spans = () => byId("symbol").querySelectorAll("[data-minutes]");

function stop() {
  clearInterval(shown.timer);
  shown.chart?.destroy();
  Object.assign(shown, { symbol: null, chart: null });
}

function choose(minutes) {
  shown.minutes = minutes;
  for (const button of spans()) button.setAttribute("aria-pressed", Number(button.dataset.minutes) === minutes);
  load();
}

async function load() {
  const { symbol, minutes } = shown;
  let found = null;
  let error = null;
  try {
    found = await read(`prices/${encodeURIComponent(symbol)}?minutes=${minutes}`);
  } catch (refused) {
    error = refused.message;
  }
  if (shown.symbol !== symbol || shown.minutes !== minutes) return; // another one was asked for meanwhile
  const empty = byId("symbol-empty");
  empty.hidden = error === null && found.candles.length > 0;
  setText(empty, error ?? "No prices were recorded in this span of time.");
  if (found !== null) draw(found);
}

function draw(found) {
  setText(byId("symbol-price"), exactPrice(found.price));
  const line = (name) => candlePoints(found.candles, found.stepS * 1_000, name);
  const to = Date.now();
  const from = to - shown.minutes * 60_000;
  shown.chart.set({
    from,
    to,
    series: [
      { label: "high", colour: "line", width: 0, points: line("high") },
      { label: "low", colour: "line", width: 0, points: line("low"), fill: "-1" },
      { label: "price", colour: "line", points: line("close") },
    ],
    levels: [...density(found.triggers.upper, "rise"), ...density(found.triggers.lower, "fall")],
    marks: found.closures
      .toReversed()
      .map((one) => ({ x: Date.parse(one.at), y: Number(one.price), colour: REASONS[one.reason]?.colour, label: closureWords(one) }))
      .filter((one) => one.x >= from),
    name: `Price of ${found.symbol}: ${exactPrice(found.price)}. ${waiting(found.triggers)}`,
  });
  byId("symbol-closures").replaceChildren(...found.closures.slice(0, LISTED).map(closureLine));
}

/** The stronger a line, the more deals: by the root, so that one deal is still seen beside ten thousand. */
function density(bins, colour) {
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  return bins.filter((bin) => bin.count).map((bin) => ({ y: Number(bin.price), colour, weight: Math.sqrt(bin.count / most), inside: false }));
}

function waiting({ upper, lower }) {
  const sum = (bins) => bins.reduce((total, bin) => total + bin.count, 0);
  return `${count(sum(upper))} triggers wait near it above and ${count(sum(lower))} below.`;
}

const closureWords = (one) => `deal ${one.dealId}, ${reasonWord(one.reason)}, ${exactPrice(one.price)}, ${signedMoney(one.profit)}`;

function closureLine(one) {
  return make(
    "li", {},
    reasonChip(one.reason),
    make("span", { class: "feed-deal" }, linked(dealAddress(one.dealId), `deal ${one.dealId}`)),
    profit(one.profit),
    make("time", { class: "feed-more quiet", datetime: one.at, title: wholeTime(Date.parse(one.at)) }, clockSeconds(Date.parse(one.at))),
    make("span", { class: "feed-more quiet" }, `at ${exactPrice(one.price)}`),
  );
}
