// Changes of the page are gathered and made together, at most four times a second and only when the page is seen.

const EVERY_MS = 250;
const due = new Map();
let waiting = false;
let paintedAt = -EVERY_MS;

/** Do `work` with the next painting. Of several under one name the last is done. */
export function paint(name, work) {
  due.set(name, work);
  if (waiting) return;
  waiting = true;
  setTimeout(() => requestAnimationFrame(paintAll), Math.max(0, paintedAt + EVERY_MS - performance.now()));
}

function paintAll() {
  waiting = false;
  paintedAt = performance.now();
  const works = [...due.values()];
  due.clear();
  works.forEach((work) => work());
}

/** Call `work` every second, with the next painting. */
export function everySecond(name, work) {
  setInterval(() => paint(name, work), 1_000);
}
