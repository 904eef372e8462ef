// The closures as they come, newest first. A batch names its first fifty; the page keeps the latest two hundred lines.

import { dealAddress, read, userAddress } from "./api.js";
import { byId, linked, make, setText } from "./dom.js";
import { clockSeconds, count, duration, exactPrice, signedMoney, wholeTime } from "./format.js";
import { paint } from "./paint.js";
import { REASON_WORDS } from "./symbol.js";

const KEEP = 200;
const known = { waiting: [], missed: 0, paused: false, loaded: false, newest: 0 };

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
  known.waiting = [];
  load();
}

export function closure(data, at) {
  const lines = data.closures.map((one) => ({ ...one, at }));
  const unnamed = data.count - lines.length;
  if (unnamed > 0) lines.push({ unnamed, at });
  known.missed += data.count;
  known.waiting = [...lines, ...known.waiting].slice(0, KEEP);
  paint("feed", draw);
}

/** What closed before the page was opened. */
async function load() {
  try {
    const { recent } = await read("closures?minutes=1");
    const lines = recent.map((one) => ({ ...one, at: Date.parse(one.committedAt ?? one.startedAt), latencyMs: latencyOf(one) }));
    byId("feed-rows").replaceChildren(...lines.map(line));
    known.loaded = true;
    setText(byId("feed-empty"), "No deal has closed yet. Closures appear here within a second.");
  } catch (error) {
    setText(byId("feed-empty"), `The latest closures could not be read. ${error.message}`);
  }
  paint("feed", draw);
}

const latencyOf = (one) => (one.receivedAt && one.committedAt ? Date.parse(one.committedAt) - Date.parse(one.receivedAt) : null);

function draw() {
  const list = byId("feed-rows");
  if (known.paused) {
    setText(byId("feed-note"), known.missed ? `paused, ${count(known.missed)} new` : "paused");
    return;
  }
  list.prepend(...known.waiting.map(line));
  known.waiting = [];
  known.missed = 0;
  while (list.childElementCount > KEEP) list.lastElementChild.remove();
  byId("feed-empty").hidden = list.childElementCount > 0;
  setText(byId("feed-note"), "");
}

function line(one) {
  if (one.unnamed) {
    return make("li", { class: "feed-unnamed" }, `and ${count(one.unnamed)} more in the same batch at ${clockSeconds(one.at)}`);
  }
  const deal = make("span", { class: "feed-deal" }, linked(dealAddress(one.dealId), `deal ${one.dealId}`), ` ${one.symbol}`);
  const gain = Number(one.profit) < 0 ? "loss" : "gain";
  const time = make("time", { class: "feed-more quiet", datetime: new Date(one.at).toISOString(), title: wholeTime(one.at) }, clockSeconds(one.at));
  const more = make("span", { class: "feed-more quiet" }, linked(userAddress(one.userId), `user ${one.userId}`), ` at ${exactPrice(one.closePrice)}`);
  return make(
    "li", { "data-deal": one.dealId },
    make("span", { class: `reason-chip ${one.reason}` }, REASON_WORDS[one.reason] ?? one.reason),
    deal,
    make("span", { class: `profit ${gain}` }, signedMoney(one.profit)),
    time,
    more,
    make("span", { class: "feed-latency quiet", title: "From the tick to the commit" }, one.latencyMs === null ? "" : duration(one.latencyMs)),
  );
}
