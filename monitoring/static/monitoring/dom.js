// Small helpers for the page's elements. Text only: nothing that comes from a server is ever read as HTML.

export const byId = (id) => document.getElementById(id);

/** Write text, only when it is another one. */
export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** make("a", {class: "x", href: "…"}, "text", child) */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A table's cell. */
export const cell = (text, kind = "") => make("td", kind ? { class: kind } : {}, text);

/** A link, or plain text where there is no address. */
export const linked = (address, text) => (address ? make("a", { href: address }, text) : document.createTextNode(text));
