// Dead letters that wait for an operator, with requeue and discard for those who may.

import { dealAddress, read, send, told } from "./api.js";
import { ask } from "./ask.js";
import { byId, linked, make, setText } from "./dom.js";
import { count, exactPrice, wholeTime } from "./format.js";

const SHOWN = 20;
const GATHER_MS = 500;
let due = null;

export function start() {
  if (told.may.letters) load();
}

export const reset = start;

/** A letter has changed: read them again, once for many. */
export function deadLetter() {
  clearTimeout(due);
  due = setTimeout(start, GATHER_MS);
}

async function load() {
  const empty = byId("letters-empty");
  try {
    const { results, next } = await read(`dead-letters?state=failed&limit=${SHOWN}`);
    byId("letters-rows").replaceChildren(...results.map(line));
    setText(byId("letters-note"), results.length ? `${next ? "more than " : ""}${count(results.length)} wait` : "");
    setText(empty, "None. Every deal that fired could be settled.");
    empty.hidden = results.length > 0;
  } catch (error) {
    setText(empty, `The dead letters could not be read. ${error.message}`);
    empty.hidden = false;
  }
}

function line(letter) {
  const head = make("p", {}, linked(dealAddress(letter.dealId), `deal ${letter.dealId}`), ` ${letter.symbol} at ${exactPrice(letter.price)}`);
  const error = make("p", { class: "letter-error" }, `${letter.errorClass}: ${letter.error}`);
  const more = make("p", { class: "quiet" }, `${count(letter.attempts)} attempts, the last ${wholeTime(Date.parse(letter.lastFailedAt))}`);
  const item = make("li", { "data-letter": letter.id }, head, error, more);
  if (told.may.change_letters) {
    const named = (word) => make("span", { class: "sr" }, ` ${word} deal ${letter.dealId}`);
    const again = make("button", { type: "button", class: "button button-small" }, "Requeue…", named("the letter of"));
    const never = make("button", { type: "button", class: "button button-small" }, "Discard…", named("the letter of"));
    again.addEventListener("click", () => requeue(letter));
    never.addEventListener("click", () => discard(letter));
    item.append(make("div", { class: "letter-buttons" }, again, never));
  }
  return item;
}

function requeue(letter) {
  ask({
    title: `Try to close deal ${letter.dealId} again?`,
    text: `It closes at the price that fired, ${exactPrice(letter.price)}. Mend its data first, or it fails again.`,
    button: "Requeue",
    work: (reason) => act(letter, "requeue", reason),
  });
}

function discard(letter) {
  ask({
    title: `Give up deal ${letter.dealId}?`,
    text: "It stays open, leaves monitoring for good, and its user is told.",
    button: "Discard",
    danger: true,
    work: (reason) => act(letter, "discard", reason),
  });
}

async function act(letter, what, reason) {
  await send(`dead-letters/${letter.id}/${what}`, { reason });
  await load();
}
