// How a closure is told, in the feed, in a symbol's dialog and in the charts.

import { make } from "./dom.js";
import { signedMoney } from "./format.js";

export const REASONS = {
  take_profit: { word: "Take Profit", colour: "rise" },
  stop_loss: { word: "Stop Loss", colour: "fall" },
  manual: { word: "by hand", colour: "other" },
};

export const reasonWord = (reason) => REASONS[reason]?.word ?? reason;

export const reasonChip = (reason) => make("span", { class: `reason-chip ${reason}` }, reasonWord(reason));

export const profit = (text) => make("span", { class: `profit ${Number(text) < 0 ? "loss" : "gain"}` }, signedMoney(text));
