// The operators' REST API with the session's own rights. Errors are told in the words of the API.

import { byId } from "./dom.js";

export const told = JSON.parse(byId("told").textContent);

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The JSON of an answer; Refused when it is an error, or when nobody answers. */
export async function read(place) {
  return ask(place, { headers: { Accept: "application/json" } });
}

/** The same for something that changes the system. */
export async function send(place, body) {
  return ask(place, {
    method: "POST",
    headers: { Accept: "application/json", "Content-Type": "application/json", "X-CSRFToken": told.csrf },
    body: JSON.stringify(body),
  });
}

async function ask(place, how) {
  let answer;
  try {
    answer = await fetch(told.api + place, { ...how, credentials: "same-origin" });
  } catch {
    throw new Refused(0, "no_answer", "The web process does not answer.");
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  const error = body?.error ?? {};
  throw new Refused(answer.status, error.code ?? "unknown", error.message ?? `The answer was ${answer.status}.`);
}

/** Where a deal is shown with its history; null without the right. */
export const dealAddress = (id) => (told.may.deals ? told.dealPage.replace("/0/", `/${id}/`) : null);

/** Where a user is shown; null without the right. */
export const userAddress = (id) => (told.may.users ? told.userPage.replace("/0/", `/${id}/`) : null);
