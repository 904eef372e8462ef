// Numbers and times as the operator's own language writes them; times always with their zone where a day is meant.

const whole = new Intl.NumberFormat();
const compactNumber = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const money = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "exceptZero" });
const percentage = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const price = new Intl.NumberFormat(undefined, { maximumFractionDigits: 12 });
const decimals = new Map();
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const clockWithSeconds = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const exact = new Intl.DateTimeFormat(undefined, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});

const NOTHING = "–";

const given = (value) => value !== null && value !== undefined;

/** 12,345 */
export const count = (value) => (given(value) ? whole.format(value) : NOTHING);

/** 12K, for axes */
export const shortCount = (value) => compactNumber.format(value);

/** +1.25 */
export const signedMoney = (text) => (given(text) ? money.format(text) : NOTHING);

/** A price with its own number of decimals, never rounded: what the API sends is text. */
export function exactPrice(text) {
  if (!given(text)) return NOTHING;
  const places = Math.min(12, (String(text).split(".")[1] ?? "").length);
  if (!decimals.has(places)) {
    decimals.set(places, new Intl.NumberFormat(undefined, { minimumFractionDigits: places, maximumFractionDigits: places }));
  }
  return decimals.get(places).format(text);
}

/** A price for an axis: as many decimals as the number has. */
export const roundPrice = (value) => price.format(Number(value.toPrecision(7)));

/** 0.42, for columns whose head says % */
export const percentNumber = (value) => (given(value) ? percentage.format(value) : NOTHING);

/** 0.42 % */
export const percent = (value) => (given(value) ? `${percentage.format(value)} %` : NOTHING);

/** 3.2 ms, 45 ms, 1.3 s, 2 min */
export function duration(ms) {
  if (!given(ms)) return NOTHING;
  if (ms < 10) return `${whole.format(Math.round(ms * 10) / 10)} ms`;
  if (ms < 1_000) return `${whole.format(Math.round(ms))} ms`;
  if (ms < 10_000) return `${whole.format(Math.round(ms / 100) / 10)} s`;
  if (ms < 120_000) return `${whole.format(Math.round(ms / 1_000))} s`;
  return longDuration(ms);
}

/** 5 min, 3 h 12 min, 4 d 2 h */
export function longDuration(ms) {
  if (!given(ms)) return NOTHING;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.round(ms / 1_000))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1_440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1_440)} d ${Math.floor((minutes % 1_440) / 60)} h`;
}

/** 14:05 */
export const clockTime = (at) => clock.format(at);

/** 14:05:09 */
export const clockSeconds = (at) => clockWithSeconds.format(at);

/** 8 Jan, 14:05:09 CET */
export const wholeTime = (at) => exact.format(at);
