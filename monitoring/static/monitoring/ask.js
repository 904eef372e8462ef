// The one dialog that asks for a reason before something is done. It stays open with the error when it is refused.

import { byId, setText } from "./dom.js";

let asked = null;

export function start() {
  byId("ask-cancel").addEventListener("click", () => byId("ask").close());
  byId("ask-form").addEventListener("submit", submit);
}

/** Ask; `work(reason)` does it. `danger` colours the button. */
export function ask(question) {
  asked = question;
  setText(byId("ask-title"), question.title);
  setText(byId("ask-text"), question.text);
  setText(byId("ask-do"), question.button);
  setText(byId("ask-error"), "");
  byId("ask-do").className = question.danger ? "button button-danger-full" : "button button-primary";
  byId("ask-reason").value = "";
  byId("ask").showModal();
  byId("ask-reason").focus();
}

async function submit(event) {
  event.preventDefault();
  const button = byId("ask-do");
  const reason = byId("ask-reason").value.trim();
  if (!reason) {
    setText(byId("ask-error"), "Say why: the audit log keeps it.");
    return;
  }
  button.disabled = true;
  setText(byId("ask-error"), "");
  try {
    await asked.work(reason);
    byId("ask").close();
  } catch (error) {
    setText(byId("ask-error"), error.message);
  } finally {
    button.disabled = false;
  }
}
