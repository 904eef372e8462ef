// A deal's page: draws its chart, and while the deal is open reads page and chart again every 5 s.

import { candlePoints } from "./candles.js";
import { timeChart } from "./charts.js";
import { exactPrice, roundPrice, wholeTime } from "./format.js";

const EVERY_MS = 5_000;
const instant = new Intl.DateTimeFormat(undefined, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, timeZoneName: "short",
});

const page = document.getElementById("deal");
const note = document.getElementById("deal-chart-note");
let chart = null;

/** The levels that the chart stretches to: those not so far away that the price would become a flat line. */
function isNear(level, low, high) {
  const reach = Math.max(2 * (high - low), 0.01 * high);
  return level > low - reach && level < high + reach;
}

/** Horizontal lines. Where two lie so close that their names would cover each other, the entry stays without one. */
function levelsOf(told, low, high) {
  const levels = [
    ["Entry", told.openPrice, "other"],
    ["Take Profit", told.takeProfit, "rise"],
    ["Stop Loss", told.stopLoss, "fall"],
  ].filter(([, price]) => price !== null).map(([name, price, colour]) => {
    const text = `${name} ${exactPrice(price)}`;
    return { y: Number(price), colour, text, label: text, inside: isNear(Number(price), low, high) };
  });
  const [entry, ...others] = levels;
  const shown = [low, high, ...levels.filter((level) => level.inside).map((level) => level.y)];
  const apart = 0.06 * (Math.max(...shown) - Math.min(...shown));
  if (others.some((other) => Math.abs(other.y - entry.y) < apart)) entry.label = "";
  return levels;
}

function marksOf(told) {
  const marks = [{ x: Date.parse(told.openedAt), y: Number(told.openPrice), label: `Opened at ${exactPrice(told.openPrice)}`, colour: "other" }];
  if (told.closedAt !== null) {
    const label = `Closed at ${exactPrice(told.closePrice)}`;
    marks.push({ x: Date.parse(told.closedAt), y: Number(told.closePrice), label, colour: "violet" });
  }
  return marks.filter((mark) => mark.x >= Date.parse(told.from));
}

function textOf(told, far) {
  if (told.candles.length === 0) {
    return "No prices of this time are kept: they are kept for a day, and lost when Redis is emptied.";
  }
  const away = far.map((level) => `${level.text} lies ${level.y > Number(told.candles.at(-1).close) ? "above" : "below"} the chart.`);
  return [`Each point is ${told.stepS < 60 ? `${told.stepS} s` : `${told.stepS / 60} min`}; the band is from the lowest to the highest price.`, ...away].join(" ");
}

function draw(told) {
  const line = (field) => candlePoints(told.candles, told.stepS * 1_000, field, 0.5);
  const prices = told.candles.flatMap((candle) => [Number(candle.low), Number(candle.high)]);
  const shown = [...prices, Number(told.openPrice), ...(told.closePrice === null ? [] : [Number(told.closePrice)])];
  const levels = levelsOf(told, Math.min(...shown), Math.max(...shown));
  const close = line("close");
  if (told.closedAt === null && told.price !== null && close.length) close.push({ x: Date.parse(told.to), y: Number(told.price) });
  const what = {
    series: [
      { label: "Highest", colour: "line-pale", points: line("high"), width: 0 },
      { label: "Lowest", colour: "line-pale", points: line("low"), width: 0, fill: "-1" },
      { label: "Price", colour: "line", points: close },
    ],
    levels,
    marks: marksOf(told),
    from: Date.parse(told.from),
    to: Date.parse(told.to),
    text: roundPrice,
    name: `Price of ${told.symbol} from ${wholeTime(Date.parse(told.from))} to ${wholeTime(Date.parse(told.to))}. `
      + [...levels.map((level) => level.text), ...marksOf(told).map((mark) => mark.label)].join(", "),
  };
  chart ? chart.set(what) : (chart = timeChart(document.getElementById("deal-chart"), what));
  note.textContent = textOf(told, levels.filter((level) => !level.inside));
  page.classList.toggle("deal-without-prices", told.candles.length === 0);
}

async function readChart() {
  const answer = await fetch(page.dataset.chart, { headers: { accept: "application/json" } });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error?.message ?? answer.statusText);
  draw(told);
}

/** What the server says of the deal now takes the place of what stands here, in the list of its fields too. */
async function readPage() {
  const answer = await fetch(location.href);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const status = fresh.getElementById("deal")?.dataset.status;
  if (!answer.ok || status === undefined) throw new Error(answer.statusText);
  const [old, young] = [document, fresh].map((root) => root.querySelectorAll("#deal [data-fresh], #deal_form fieldset"));
  old.forEach((part, number) => part.replaceChildren(...young[number].childNodes));
  page.dataset.status = status;
  localise();
}

/** Times in the operator's own zone, as the chart has them, and numbers as his language writes them. */
function localise() {
  for (const time of page.querySelectorAll("time:not([title])")) {
    time.title = time.textContent;
    time.textContent = instant.format(Date.parse(time.dateTime));
  }
  for (const number of page.querySelectorAll("data")) {
    if (/\d/.test(number.value)) number.textContent = (number.value.startsWith("+") ? "+" : "") + exactPrice(number.value);
  }
}

async function chartOrWhyNot() {
  try {
    await readChart();
  } catch (error) {
    note.textContent = `The chart cannot be read. ${error.message}`;
  }
}

async function again() {
  const wasOpen = page.dataset.status === "open";
  if (!document.hidden && wasOpen) {
    await Promise.all([chartOrWhyNot(), readPage().catch(() => { document.getElementById("deal-stale").hidden = false; })]);
  }
  if (wasOpen) setTimeout(again, EVERY_MS);
}

localise();
await chartOrWhyNot();
setTimeout(again, EVERY_MS);
