// The live stream (docs/stream.md): comes back by itself, and knows whether it is live.
// The browser's EventSource comes back after a cut and sends the last id; after an answer that is an error it gives
// up, and then it is opened anew here.

import { learn } from "./clock.js";

const SILENT_MS = 12_000; // health comes every 5 s: two of them are missing
const AGAIN_MS = [1_000, 2_000, 5_000, 10_000, 30_000];

/**
 * `onEvent(type, data, atMs)` for every event. `onLiveness({live, since, refused})` when that changes: `since` is when
 * the last event came (ms, or null), `refused` the status of the answer that refuses the stream (401, 403), if one does.
 */
export function openStream(address, { onEvent, onLiveness }) {
  const known = { source: null, lastId: null, lastAt: null, live: null, tries: 0, refused: null, openedAt: 0 };

  const tell = (live) => {
    if (known.live === live) return;
    known.live = live;
    onLiveness({ live, since: known.lastAt, refused: known.refused });
  };

  const open = () => {
    const query = known.lastId ? `?lastEventId=${encodeURIComponent(known.lastId)}` : "";
    const source = new EventSource(address + query);
    known.source = source;
    source.onmessage = (message) => {
      const { type, data, timestamp } = JSON.parse(message.data);
      const at = Date.parse(timestamp);
      if (message.lastEventId) known.lastId = message.lastEventId;
      else learn(at);
      known.lastAt = Date.now();
      known.tries = 0;
      known.refused = null;
      onEvent(type, data, at);
      tell(true);
    };
    source.onerror = () => {
      tell(false);
      if (source.readyState === EventSource.CLOSED) openAgain();
    };
    known.openedAt = Date.now();
  };

  const openAgain = async () => {
    const wait = AGAIN_MS[Math.min(known.tries++, AGAIN_MS.length - 1)];
    known.refused = await refusal(address);
    if (known.refused) {
      known.live = null;
      tell(false);
    }
    setTimeout(open, wait * (0.75 + Math.random() / 2));
  };

  setInterval(() => {
    const { source } = known;
    if (source.readyState !== EventSource.OPEN) return;
    if (Date.now() - Math.max(known.lastAt ?? 0, known.openedAt) < SILENT_MS) return;
    source.close(); // a connection that only seems to stand
    tell(false);
    openAgain();
  }, 1_000);
  open();
}

/** The status when it is the caller who is refused. */
async function refusal(address) {
  const answer = await fetch(address, { method: "HEAD", credentials: "same-origin" }).catch(() => null);
  return answer && [401, 403].includes(answer.status) ? answer.status : null;
}
