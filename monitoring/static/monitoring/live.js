// The live page: hands every event of the stream to the parts that want it. Each part owns its piece of the page.

import { told } from "./api.js";
import * as banner from "./banner.js";
import * as controls from "./controls.js";
import { byId } from "./dom.js";
import * as feed from "./feed.js";
import * as history from "./history.js";
import * as letters from "./letters.js";
import * as market from "./market.js";
import { openStream } from "./stream.js";
import * as symbol from "./symbol.js";
import * as tiles from "./tiles.js";
import * as workers from "./workers.js";

const parts = [banner, tiles, history, market, symbol, feed, letters, workers, controls];

function hand(event, ...facts) {
  for (const part of parts) part[event]?.(...facts);
}

function onEvent(type, data, at) {
  if (type === "reset") {
    // What was known may be wrong: the snapshot stands for everything up to now, and lists are read anew.
    for (const name of ["health", "state", "prices"]) hand(name, data[name], at);
    hand("reset");
  } else {
    hand(type, data, at);
  }
}

function onLiveness(liveness) {
  byId("live").dataset.live = liveness.live ? "yes" : "no";
  hand("liveness", liveness);
}

hand("start");
openStream(`${told.api}monitor/stream`, { onEvent, onLiveness });
