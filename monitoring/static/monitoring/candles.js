// Candles as the points of a line.

const GAP_STEPS = 4;

/** A point a candle, `into` of its step after its beginning; a long time without a tick breaks the line. */
export function candlePoints(candles, stepMs, field, into = 0) {
  const points = [];
  let before = null;
  for (const candle of candles) {
    const at = Date.parse(candle.at);
    if (before !== null && at - before > GAP_STEPS * stepMs) points.push({ x: before + stepMs, y: null });
    points.push({ x: at + into * stepMs, y: Number(candle[field]) });
    before = at;
  }
  return points;
}
