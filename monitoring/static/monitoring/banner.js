// The state banner: in one sentence whether all is well, then what is wrong, since when, and what to do.

import { now } from "./clock.js";
import { byId, make, setText } from "./dom.js";
import { clockSeconds, count, longDuration, wholeTime } from "./format.js";
import { everySecond, paint } from "./paint.js";

const SIGNS = {
  good: "check_circle", warn: "warning", bad: "error", halted: "front_hand", stale: "cloud_off", waiting: "hourglass_empty",
};
const known = { health: null, healthAt: null, state: null, liveness: { live: null } };
/** Checks that say nothing of deals waiting just now: with these alone every deal still closes at its levels. */
const MILD = new Set(["successRate", "errors", "sweepShare", "sweepReach", "degraded", "abandonedOperations", "deadLetters"]);

export function start() {
  everySecond("banner", draw);
}

export function health(data, at) {
  known.health = data;
  known.healthAt = at;
  known.state = { state: data.state, since: data.stateSince, reason: data.stateReason };
  paint("banner", draw);
}

export function state(data) {
  known.state = data;
  paint("banner", draw);
}

export function liveness(found) {
  known.liveness = found;
  paint("banner", draw);
}

function draw() {
  const verdict = judge();
  byId("banner").dataset.tone = verdict.tone;
  setText(byId("banner-sign"), SIGNS[verdict.tone]);
  setText(byId("banner-title"), verdict.title);
  setText(byId("banner-text"), verdict.text);
  const mark = { good: "", stale: "◌ ", waiting: "" }[verdict.tone] ?? "● ";
  document.title = `${mark}${verdict.title} | CryptoCraze TP/SL`;
  facts();
  reasons();
}

/** Tone, headline and sentence. The first that is true counts. */
function judge() {
  const { health: found, state: system, liveness: stream } = known;
  if (stream.refused === 401) return { tone: "stale", title: "You are logged out", text: "Log in again to see what happens now." };
  if (stream.refused === 403) return { tone: "stale", title: "You may not see this any more", text: "Ask an operator for the rights of staff." };
  if (stream.live === false) return notLive(stream, found);
  if (found === null) return { tone: "waiting", title: "Connecting…", text: "The first figures come in a moment." };
  const unprotected = check("unprotectedDeals")?.figure;
  if (system.state === "halted") return { tone: "halted", title: "Halted", text: `No deal opens or closes until someone resumes. ${said(system)}` };
  if (unprotected > 0) return { tone: "bad", title: unprotectedDeals(unprotected), text: "What would not close at its levels needs you now." };
  if (["draining", "stopped"].includes(system.state)) {
    const title = system.state === "stopped" ? "Stopped" : "Draining";
    return { tone: "warn", title, text: `No Take Profit and no Stop Loss fires until someone resumes. ${said(system)}` };
  }
  if (found.isHealthy) return { tone: "good", title: "All is well", text: protectedDeals(found) };
  if (found.status === "degraded") return { tone: "warn", title: "Degraded, deals still close", text: "The prices process closes deals itself meanwhile." };
  return failing(unprotected);
}

function notLive(stream, found) {
  if (stream.since === null) return { tone: "stale", title: "Not live", text: "The stream cannot be reached. Trying again." };
  const text = `What you see is from then${found ? "" : ", as far as it is known"}. Trying to reach the stream again.`;
  return { tone: "stale", title: `Not live since ${wholeTime(stream.since)}`, text };
}

const unprotectedDeals = (number) => (number === 1 ? "One deal is unprotected" : `${count(number)} deals are unprotected`);

const said = (system) => (system.reason ? `Reason given: ${system.reason}` : "");

function failing(unprotected) {
  const bad = checks().filter((one) => !one.isHealthy);
  const title = bad.length === 1 ? "One check fails" : `${count(bad.length)} checks fail`;
  if (unprotected === undefined || unprotected === null) return { tone: "bad", title, text: "Whether every deal is protected cannot be told." };
  if (bad.every((one) => MILD.has(one.name))) return { tone: "warn", title, text: "Every watched deal still closes at its levels." };
  return { tone: "bad", title, text: "Until this is mended deals may close late, or not at all." };
}

function protectedDeals(found) {
  const watched = found.overall.watchedDeals;
  if (watched === null) return "Every deal is protected.";
  if (watched === 0) return "No deal is watched just now.";
  return watched === 1 ? "The one watched deal is protected." : `All ${count(watched)} watched deals are protected.`;
}

function check(name) {
  return checks().find((one) => one.name === name);
}

const checks = () => (known.health?.components ?? []).flatMap((component) => component.checks);

function facts() {
  const { health: found, state: system, liveness: stream } = known;
  if (system?.state) {
    setText(byId("fact-state"), system.state);
    setText(byId("fact-since"), system.since ? wholeTime(Date.parse(system.since)) : "–");
    const running = system.state === "running" && system.since;
    setText(byId("fact-uptime"), running ? longDuration(now() - Date.parse(system.since)) : "–");
  } else if (found) {
    for (const name of ["fact-state", "fact-since", "fact-uptime"]) setText(byId(name), "unknown");
  }
  const live = stream.live ? `live, ${clockSeconds(now())}` : stream.live === null ? "connecting" : "not live";
  setText(byId("stream-text"), live);
}

/** A line for each bad check. A line stays while its check is bad: it may be open, and may have the focus. */
function reasons() {
  const list = byId("banner-reasons");
  const bad = checks().filter((one) => !one.isHealthy);
  const names = new Set(bad.map((one) => one.name));
  for (const line of [...list.children]) if (!names.has(line.dataset.check)) line.remove();
  bad.forEach((one, place) => {
    const line = list.querySelector(`[data-check="${one.name}"]`) ?? reasonLine(one.name);
    if (list.children[place] !== line) list.insertBefore(line, list.children[place] ?? null);
    setText(line.querySelector(".reason"), one.reason ?? one.name);
    setText(line.querySelector(".since"), one.since ? ` since ${wholeTime(Date.parse(one.since))}` : "");
  });
}

function reasonLine(name) {
  const line = make("li", { "data-check": name }, make("span", { class: "reason" }), make("span", { class: "since quiet" }));
  const help = byId(`advice-${name}`);
  if (help) {
    const summary = make("summary", {}, "What to do", make("span", { class: "sr" }, ` about ${name}`));
    line.append(make("details", {}, summary, help.content.cloneNode(true)));
  }
  return line;
}
