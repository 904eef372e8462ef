// The closures as they come, newest first: the latest two hundred. Of a flood each painting shows the newest forty, and
// says how many more there were; nobody reads thousands of lines a second.

import { dealAddress, read, userAddress } from "./api.js";
import { now } from "./clock.js";
import { profit, reasonChip } from "./closure.js";
import { byId, linked, make, setText } from "./dom.js";
import { clockSeconds, count, duration, exactPrice, wholeTime } from "./format.js";
import { paint } from "./paint.js";

const KEEP = 200;
const KEEP_NEW = 40;
const known = { loaded: false, waiting: [], unnamed: 0, missed: 0, paused: false };

export function start() {
  const pause = byId("feed-pause");
  pause.addEventListener("click", () => {
    known.paused = !known.paused;
    pause.setAttribute("aria-pressed", known.paused);
    setText(pause, known.paused ? "Go on" : "Pause");
    paint("feed", draw);
  });
  load();
}

export function reset() {
  Object.assign(known, { loaded: false, waiting: [], unnamed: 0, missed: 0 });
  load();
}

export function closure(data, at) {
  const lines = data.closures.slice(0, KEEP_NEW).map((one) => ({ ...one, at }));
  const shown = [...lines, ...known.waiting].slice(0, KEEP_NEW);
  known.unnamed += data.count - (shown.length - known.waiting.length);
  known.missed += data.count;
  known.waiting = shown;
  paint("feed", draw);
}

/** What closed before the page was opened. What comes meanwhile waits, and is not told twice. */
async function load() {
  try {
    const { recent } = await read("closures?minutes=1");
    const lines = recent.map((one) => ({ ...one, at: Date.parse(one.committedAt ?? one.startedAt), latencyMs: latencyOf(one) }));
    byId("feed-rows").replaceChildren(...lines.map(line));
    const listed = new Set(recent.map((one) => one.dealId));
    known.waiting = known.waiting.filter((one) => !listed.has(one.dealId));
    setText(byId("feed-empty"), "No deal has closed yet. Closures appear here within a second.");
  } catch (error) {
    setText(byId("feed-empty"), `The latest closures could not be read. ${error.message}`);
  }
  known.loaded = true;
  paint("feed", draw);
}

const latencyOf = (one) => (one.receivedAt && one.committedAt ? Date.parse(one.committedAt) - Date.parse(one.receivedAt) : null);

function draw() {
  if (!known.loaded) return;
  const list = byId("feed-rows");
  if (known.paused) {
    setText(byId("feed-note"), known.missed ? `paused, ${count(known.missed)} new` : "paused");
    return;
  }
  const more = known.unnamed ? [{ unnamed: known.unnamed, at: known.waiting.at(-1)?.at ?? now() }] : [];
  list.prepend(...[...known.waiting, ...more].map(line));
  Object.assign(known, { waiting: [], unnamed: 0, missed: 0 });
  while (list.childElementCount > KEEP) list.lastElementChild.remove();
  byId("feed-empty").hidden = list.childElementCount > 0;
  setText(byId("feed-note"), "");
}

function line(one) {
  if (one.unnamed) {
    return make("li", { class: "feed-unnamed" }, `and ${count(one.unnamed)} more at ${clockSeconds(one.at)}`);
  }
  const deal = make("span", { class: "feed-deal" }, linked(dealAddress(one.dealId), `deal ${one.dealId}`), ` ${one.symbol}`);
  const time = make("time", { class: "feed-more quiet", datetime: new Date(one.at).toISOString(), title: wholeTime(one.at) }, clockSeconds(one.at));
  const more = make("span", { class: "feed-more quiet" }, linked(userAddress(one.userId), `user ${one.userId}`), ` at ${exactPrice(one.closePrice)}`);
  return make(
    "li", { "data-deal": one.dealId },
    reasonChip(one.reason),
    deal,
    profit(one.profit),
    time,
    more,
    make("span", { class: "feed-latency quiet", title: "From the tick to the commit" }, one.latencyMs === null ? "" : duration(one.latencyMs)),
  );
}
