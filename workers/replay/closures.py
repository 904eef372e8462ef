"""Writes the result of a replay: one row a deal, prices as they stand in the input files."""

from __future__ import annotations

import csv
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Final

from deals.models import Deal
from workers.replay.errors import ReplayError
from workers.replay.plan import PlannedDeal
from workers.sources.tape import read_trades

HEADER: Final = [
    *("ref", "direction", "open_price", "take_profit", "stop_loss"),
    *("close_price", "close_reason", "profit", "commission", "trade_id", "detector"),
]


def write_closures(path: Path, tape: Path, deals: list[tuple[PlannedDeal, Deal]]) -> None:
    """Write the deals in the given order, whole or not at all. Raises ReplayError, OSError."""
    trade_ids = {deal.close_trade_id for _, deal in deals if deal.close_trade_id is not None}
    prices = _prices_at(tape, trade_ids)
    rows = [_row(planned, deal, prices) for planned, deal in deals]
    unfinished = unfinished_path(path)
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)
    unfinished.replace(path)


def unfinished_path(path: Path) -> Path:
    """Where the closures are written until they are complete."""
    return path.with_name(f"{path.name}.part")


def _prices_at(tape: Path, trade_ids: Collection[int]) -> dict[int, str]:
    return {trade.trade_id: trade.price for trade in read_trades(tape) if trade.trade_id in trade_ids}


def _row(planned: PlannedDeal, deal: Deal, prices: dict[int, str]) -> list[str]:
    row = planned.row
    opened = [
        row.ref,
        deal.direction,
        _as_written(deal.open_price, planned.trade.price),
        _as_written(deal.take_profit, row.take_profit),
        _as_written(deal.stop_loss, row.stop_loss),
    ]
    if deal.close_reason is None:
        return [*opened, "", "open", "", "", "", ""]
    trade_id = deal.close_trade_id
    if trade_id is None or trade_id not in prices:
        raise ReplayError(f"deal {row.ref} was closed by trade {trade_id}, which the tape does not hold")
    closed = [_as_written(deal.close_price, prices[trade_id]), str(deal.close_reason)]
    return [*opened, *closed, f"{deal.profit:.8f}", f"{deal.commission:.8f}", str(trade_id), str(deal.detector)]


def _as_written(value: Decimal | None, text: str) -> str:
    """The text that a number in the database came from; ReplayError when it is another number."""
    if value != (Decimal(text) if text else None):
        raise ReplayError(f"the database holds {value} where the file has {text or 'nothing'}")
    return text
