// Queues and processes with their load, read every ten seconds while the page is seen.

import { read } from "./api.js";
import { byId, cell, make, setText } from "./dom.js";
import { clockSeconds, count, duration } from "./format.js";
import { paint } from "./paint.js";

const EVERY_MS = 10_000;

export function start() {
  load();
  setInterval(() => document.hidden || load(), EVERY_MS);
  document.addEventListener("visibilitychange", () => document.hidden || load());
}

export const reset = load;

async function load() {
  const empty = byId("workers-empty");
  try {
    const found = await read("stats");
    paint("workers", () => draw(found));
    empty.hidden = true;
  } catch (error) {
    empty.hidden = false;
    setText(empty, `Queues and processes could not be read. ${error.message}`);
  }
}

function draw(found) {
  byId("queue-rows").replaceChildren(...found.queues.map(queueLine));
  byId("process-rows").replaceChildren(...found.processes.map(processLine));
  for (const note of ["queues-note", "workers-note"]) setText(byId(note), `read ${clockSeconds(Date.parse(found.at))}`);
}

function queueLine(queue) {
  const oldest = queue.oldestAgeMs === null ? "–" : duration(queue.oldestAgeMs);
  const line = make("tr", {}, make("th", { scope: "row" }, queue.name), cell(count(queue.depth), "number"), cell(oldest, "number"));
  line.append(cell(count(queue.active), "number"), cell(count(queue.consumers), "number"));
  line.classList.toggle("stale", queue.consumers === 0);
  return line;
}

function processLine(process) {
  const name = make("th", { scope: "row" }, process.role, make("span", { class: "quiet process-name" }, process.name));
  return make("tr", {}, name, cell(does(process)), make("td", {}, ...loadOf(process)), cell(duration(process.ageMs), "number"));
}

function does(process) {
  if (process.role === "worker") return process.queues.join(", ");
  if (process.role === "prices") return `${process.source}, drives ${count(process.held.length)} symbols`;
  if (process.role === "web") return `${count(process.listeners)} listen`;
  return "asks for sweeps";
}

function loadOf(process) {
  if (process.role !== "worker" || process.active === null) return ["–"];
  const text = `${count(process.active)} of ${count(process.concurrency)}`;
  return [make("meter", { min: 0, max: process.concurrency, value: process.active, "aria-label": `Load of ${process.name}: ${text}` }), ` ${text}`];
}
