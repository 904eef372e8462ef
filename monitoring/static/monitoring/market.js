// A row for each symbol. A hundred of them change four times a second: only what is seen is drawn.

import { read, told } from "./api.js";
import { age, now } from "./clock.js";
import { byId, cell, make, setText } from "./dom.js";
import { count, duration, exactPrice, percentNumber } from "./format.js";
import { everySecond, paint } from "./paint.js";
import { spark } from "./spark.js";
import { openSymbol } from "./symbol.js";

const HISTORY_EVERY_MS = 120_000;
const STEP_MS = 15_000;
const PAST_POINTS = 60;
const known = { staleAfterMs: 10_000, prices: new Map(), pasts: new Map() };
const rows = new Map();
const changed = new Set();
const seen = new Set();

export function start() {
  const body = byId("market-rows");
  const watching = new IntersectionObserver(onSeen, { root: body.closest(".scroll"), rootMargin: "100px" });
  for (const symbol of told.symbols) {
    const row = makeRow(symbol);
    rows.set(symbol, row);
    body.append(row.line);
    watching.observe(row.line);
  }
  loadPasts();
  setInterval(() => document.hidden || loadPasts(), HISTORY_EVERY_MS);
  everySecond("ages", drawAges);
  setInterval(remember, STEP_MS);
}

export function prices(data) {
  known.staleAfterMs = data.staleAfterMs;
  for (const news of data.symbols) {
    const price = known.prices.get(news.symbol) ?? {};
    known.prices.set(news.symbol, Object.assign(price, news));
    changed.add(news.symbol);
  }
  paint("market", draw);
}

function makeRow(symbol) {
  const button = make("button", { type: "button", class: "symbol-name", title: `Show ${symbol}` }, symbol);
  button.addEventListener("click", () => openSymbol(symbol));
  const line = make("tr", { "data-symbol": symbol }, make("th", { scope: "row" }, button));
  const chart = spark();
  const row = { line, chart, price: cell("–", "number"), age: cell("–", "number wide quiet"), armed: cell("–", "number"), upper: cell("–", "number"), lower: cell("–", "number") };
  line.append(row.price, row.age, make("td", { class: "wide" }, chart.element), row.armed, row.upper, row.lower);
  return row;
}

function onSeen(entries) {
  for (const { target, isIntersecting } of entries) {
    const { symbol } = target.dataset;
    if (isIntersecting) {
      seen.add(symbol);
      changed.add(symbol);
    } else {
      seen.delete(symbol);
    }
  }
  paint("market", draw);
}

function draw() {
  for (const symbol of changed) {
    if (!seen.has(symbol)) continue;
    changed.delete(symbol);
    drawRow(rows.get(symbol), known.prices.get(symbol));
  }
  note();
}

function drawRow(row, price) {
  if (!row || !price) return;
  setText(row.price, exactPrice(price.price));
  setText(row.armed, count(price.armed));
  setText(row.upper, distance(price.nearestUpper, price.price));
  setText(row.lower, distance(price.nearestLower, price.price));
  drawAge(row, price);
}

function distance(nearest, price) {
  if (!nearest || !price) return "–";
  return percentNumber((Math.abs(nearest.price - price) / price) * 100);
}

function drawAges() {
  for (const symbol of seen) {
    const price = known.prices.get(symbol);
    if (price) drawAge(rows.get(symbol), price);
    drawSpark(symbol);
  }
  note();
}

function drawAge(row, price) {
  const ms = ageOf(price);
  const stale = ms === null || ms >= known.staleAfterMs;
  row.line.classList.toggle("stale", stale);
  setText(row.age, ms === null ? "no price" : ms < 1_000 ? "now" : duration(Math.floor(ms / 1_000) * 1_000));
}

/** By exchange time or receipt, whichever is older; null without a price. */
const ageOf = (price) => (price.at ? Math.max(age(price.at), age(price.receivedAt)) : null);

function note() {
  const stale = [...known.prices.values()].filter((price) => (ageOf(price) ?? Infinity) >= known.staleAfterMs).length;
  const text = stale === 0 ? `${count(rows.size)} symbols, all fresh` : `${count(stale)} of ${count(rows.size)} without a fresh price`;
  setText(byId("market-note"), known.prices.size ? text : "waiting for prices");
}

async function loadPasts() {
  try {
    const past = await read("prices/history");
    for (const [symbol, points] of Object.entries(past.symbols)) {
      known.pasts.set(symbol, points.map(([at, price]) => [at, Number(price)]));
    }
  } catch {
    // The rows say what is now; the past is drawn when it can be read again.
  }
}

/** The past, and the price of now at its end. */
function drawSpark(symbol) {
  const price = known.prices.get(symbol)?.price;
  const past = known.pasts.get(symbol) ?? [];
  rows.get(symbol).chart.draw(price ? [...past, [now(), Number(price)]] : past);
}

/** Between two readings the past goes on by itself. */
function remember() {
  for (const [symbol, one] of known.prices) {
    if (ageOf(one) === null || ageOf(one) >= known.staleAfterMs) continue;
    const past = known.pasts.get(symbol) ?? [];
    known.pasts.set(symbol, [...past.slice(-PAST_POINTS), [now(), Number(one.price)]]);
  }
}
