// The server's time: ages are differences of its times, whatever the operator's own clock says.

let aheadMs = null;

/** Learn from a time that the server has just written. The fastest message is nearest to the truth. */
export function learn(serverMs) {
  const seen = serverMs - Date.now();
  aheadMs = aheadMs === null ? seen : Math.max(seen, aheadMs - 1);
}

/** The server's time now, ms since 1970. */
export const now = () => Date.now() + (aheadMs ?? 0);

/** How long ago, ms; null for no time. */
export const age = (text) => (text ? Math.max(0, now() - Date.parse(text)) : null);
