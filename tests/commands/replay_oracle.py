"""What a replay must answer, by brute force: every deal against every trade after its opening, in exact fractions.

Written from the rules alone. Imports nothing of the project, so that a mistake cannot stand on both sides.
"""

from __future__ import annotations

import csv
import io
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

HEADER = "ref,direction,open_price,take_profit,stop_loss,close_price,close_reason,profit,commission,trade_id,detector"
COMMISSION_RATE = Fraction(5, 10_000)
MONITORING_MS = 24 * 3_600_000


class Trade(NamedTuple):
    """A trade that counts: one that is older than the trade before it is left out."""

    number: str
    price: str
    value: Fraction
    at_ms: int


def expected_closures(tape: Path, deals: Path) -> str:
    """The whole text of CLOSURES."""
    trades = read_trades(tape)
    answer = io.StringIO(newline="")
    rows = csv.writer(answer, lineterminator="\n")
    rows.writerow(HEADER.split(","))
    with deals.open(encoding="utf-8-sig", newline="") as file:
        for deal in csv.DictReader(file):
            rows.writerow(closure(deal, trades))
    return answer.getvalue()


def read_trades(tape: Path) -> list[Trade]:
    """The trades that count, in the file's order."""
    trades: list[Trade] = []
    with tape.open(encoding="utf-8-sig", newline="") as file:
        for cells in csv.reader(file):
            if not cells:
                continue
            at_ms = int(cells[4])
            if not trades or at_ms >= trades[-1].at_ms:
                trades.append(Trade(cells[0], cells[1], Fraction(cells[1]), at_ms))
    return trades


def closure(deal: dict[str, str], trades: list[Trade]) -> list[str]:
    """One row: the first later trade within 24 hours that reaches a level closes the deal."""
    opening = next(index for index, trade in enumerate(trades) if trade.number == deal["open_at_trade"])
    opened = trades[opening]
    levels = [deal["take_profit"], deal["stop_loss"]]
    row = [deal["ref"], deal["direction"], opened.price, *levels]
    take_profit, stop_loss = (Fraction(text) if text else None for text in levels)
    sign = 1 if deal["direction"] == "up" else -1
    for trade in trades[opening + 1 :]:
        if trade.at_ms >= opened.at_ms + MONITORING_MS:
            break
        reason = None
        if take_profit is not None and sign * trade.value >= sign * take_profit:
            reason = "take_profit"
        if stop_loss is not None and sign * trade.value <= sign * stop_loss:
            reason = "stop_loss"
        if reason:
            return [*row, trade.price, reason, *outcome(deal, sign, opened.value, trade.value), trade.number, "tick"]
    return [*row, "", "open", "", "", "", ""]


def outcome(deal: dict[str, str], sign: int, open_price: Fraction, close_price: Fraction) -> tuple[str, str]:
    """Profit and commission as text."""
    amount = Fraction(deal["amount"])
    volume = amount * int(deal["multiplier"])
    commission = volume * COMMISSION_RATE
    profit = sign * volume * (close_price - open_price) / open_price - commission
    return eight_decimals(max(profit, -amount)), eight_decimals(commission)


def eight_decimals(value: Fraction) -> str:
    """Rounded half to even, as `round` of a fraction does; never a negative zero."""
    units = round(value * 10**8)
    sign = "-" if units < 0 else ""
    return f"{sign}{abs(units) // 10**8}.{abs(units) % 10**8:08d}"
