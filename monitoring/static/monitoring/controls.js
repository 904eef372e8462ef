// Restart, drain, emergency stop, resume: asked for with a reason; progress and outcome as the stream tells them.

import { send, told } from "./api.js";
import * as asking from "./ask.js";
import { byId, make } from "./dom.js";
import { clockSeconds } from "./format.js";

const QUESTIONS = {
  "emergency-stop": {
    title: "Stop at once?",
    text: "From the answer on no deal opens or closes, not even by hand, until someone resumes.",
    button: "Stop now",
    danger: true,
  },
  shutdown: {
    title: "Drain and stop?",
    text: "What is in flight is finished. Then no Take Profit and no Stop Loss fires, and nothing opens, until someone resumes. Users may still close by hand.",
    button: "Drain and stop",
  },
  restart: {
    title: "Restart the workers?",
    text: "Nothing fires until it is done: what is in flight is finished, the worker pools are replaced, the trigger book is rebuilt, and a synthetic deal is closed as proof. If anything fails it stays stopped.",
    button: "Restart",
  },
  resume: {
    title: "Resume?",
    text: "Every watched deal is watched from this moment on; what had fired before closes at its price.",
    button: "Resume",
  },
};
const NAMES = { restart: "Restart", shutdown: "Drain and stop", "emergency-stop": "Emergency stop", emergency_stop: "Emergency stop", resume: "Resume" };
const OUTCOMES = { running: "is running", done: "is done", failed: "failed", abandoned: "was abandoned: its process died" };

let latest = { id: 0, state: "" };

export function start() {
  asking.start();
  for (const button of document.querySelectorAll("[data-control]")) {
    const what = button.dataset.control;
    button.addEventListener("click", () => asking.ask({ ...QUESTIONS[what], work: (reason) => order(what, reason) }));
  }
}

async function order(what, reason) {
  operation(await send(what, { reason }));
}

export const health = (data) => offer(data.state);
export const state = (data) => offer(data.state);

/** Only what makes sense: resuming what does not run, restarting what is not halted. */
function offer(system) {
  if (!told.may.control || !system) return;
  const hide = { resume: system === "running", restart: system === "halted", shutdown: system !== "running", "emergency-stop": system === "halted" };
  for (const [what, hidden] of Object.entries(hide)) {
    document.querySelector(`[data-control="${what}"]`).hidden = hidden;
  }
}

/** An operation as an event or an answer tells it; news of an older one is no news. */
export function operation(data) {
  const isOld = data.id < latest.id || (data.id === latest.id && data.state === "running" && latest.state !== "running");
  if (isOld) return;
  latest = data;
  const name = NAMES[data.kind] ?? data.kind;
  const head = make("p", {}, make("b", {}, `${name} ${OUTCOMES[data.state] ?? data.state}`), data.reason ? ` – ${data.reason}` : "");
  const steps = (data.steps ?? []).map((step) =>
    make("li", {}, make("span", { class: "quiet" }, clockSeconds(Date.parse(step.at))), ` ${step.name}: ${step.outcome}`));
  const error = data.error ? make("p", { class: "error" }, data.error) : null;
  const close = make("button", { type: "button", class: "button button-small", "aria-label": "Hide this operation" }, "Hide");
  const box = byId("operation");
  close.addEventListener("click", () => (box.hidden = true));
  box.dataset.state = data.state;
  box.replaceChildren(...[head, make("ol", {}, ...steps), error, data.state === "running" ? null : close].filter(Boolean));
  box.hidden = false;
}
