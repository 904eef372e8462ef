// The figures: each with its age, so that none is taken for newer than it is.

import { age, now } from "./clock.js";
import { byId, setText } from "./dom.js";
import { count, duration, longDuration, percent } from "./format.js";
import { everySecond, paint } from "./paint.js";

const OLD_MS = 30_000; // figures come every 10 s or more; older than this is said aloud
const MINUTE_S = 60;
const NOT_COUNTED = "not counted yet";

const known = { health: null, figures: null, seen: new Map(), from: null };

export function start() {
  everySecond("tiles", draw);
}

export function health(data) {
  known.health = data;
  known.figures = data.figures ?? known.figures; // null while PostgreSQL is away or slow: the last ones grow old
  paint("tiles", draw);
}

/** Closures are counted as they come, by second: after a minute the rate is our own and always fresh. */
export function closure(data, at) {
  const second = Math.floor(at / 1_000);
  known.seen.set(second, (known.seen.get(second) ?? 0) + data.count);
  paint("tiles", draw);
}

export function liveness({ live }) {
  known.from = live ? now() : null;
  if (!live) known.seen.clear();
}

function draw() {
  const { health: found, figures } = known;
  if (found === null) return;
  const checks = new Map(found.components.flatMap((one) => one.checks).map((one) => [one.name, one]));
  const checked = age(found.checkedAt);
  deals(found, figures, checked);
  rate(figures);
  latency(figures);
  ofCheck("unprotected", checks.get("unprotectedDeals"), count, "every deal is watched", checked);
  ofCheck("oldest", checks.get("oldestMessage"), (s) => duration(s * 1_000), "waiting in a queue", checked);
  ofCheck("letters", checks.get("deadLetters"), count, "wait for an operator", checked);
  ofCheck("swept", checks.get("sweepShare"), percent, "of closures in 10 min", checked);
}

function deals(found, figures, checked) {
  if (figures === null) {
    show("open", count(found.overall.watchedDeals), found.overall.watchedDeals === null ? NOT_COUNTED : "watched ones", checked);
    show("armed", count(null), NOT_COUNTED, null);
    return;
  }
  const by = new Map(figures.openDeals.map((one) => [one.monitoring, one.deals]));
  const open = [...by.values()].reduce((sum, deals) => sum + deals, 0);
  const unwatched = (found.overall.removedDeals ?? 0) + (found.overall.expiredDeals ?? 0);
  show("open", count(open), unwatched ? `${count(unwatched)} not watched any more` : "", age(figures.at));
  show("armed", count(by.get("armed") ?? 0), `${count(by.get("pending") ?? 0)} to be armed`, age(figures.at));
}

function rate(figures) {
  const first = Math.floor(now() / 1_000) - MINUTE_S;
  for (const second of known.seen.keys()) if (second <= first) known.seen.delete(second);
  const own = known.from !== null && now() - known.from >= MINUTE_S * 1_000;
  const counted = [...known.seen.values()].reduce((sum, deals) => sum + deals, 0);
  const read = figures ? figures.closedLastMinute.reduce((sum, one) => sum + one.deals, 0) : null;
  show("rate", count(own ? counted : read), "in the last 60 s", own ? 0 : age(figures?.at));
}

function latency(figures) {
  const way = figures?.latencies.tickToCommitted;
  const note = way?.deals ? `of ${count(way.deals)} in 5 min` : "none in 5 min";
  show("p50", duration(way?.p50Ms), figures ? note : "", age(figures?.at));
  show("p99", duration(way?.p99Ms), way?.deals ? `slowest ${duration(way.maxMs)}` : "", age(figures?.at));
}

function ofCheck(tile, check, text, note, checked) {
  const unknown = check === undefined || check.figure === null;
  const bad = check !== undefined && !check.isHealthy;
  show(tile, unknown ? "unknown" : text(check.figure), bad && tile === "unprotected" ? "" : note, checked, bad);
}

function show(tile, value, note, ageMs, bad = false) {
  const element = byId(`tile-${tile}`);
  element.classList.toggle("bad", bad);
  const old = ageMs !== null && ageMs > OLD_MS;
  element.classList.toggle("old", old);
  setText(element.querySelector(".value"), value);
  setText(element.querySelector(".note"), old ? `${longDuration(ageMs)} old` : note);
  element.title = ageMs === null ? "" : `Read ${duration(Math.round(ageMs / 1_000) * 1_000)} ago`;
}
