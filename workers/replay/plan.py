"""Reads the deals of a replay and checks them against the tape, as opening them would. Touches no server."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from deals.money import NotADecimal, check_amount, parse_plain, parse_price
from deals.triggers import Direction, LevelError, Levels, check_levels
from workers.clock import TapeClock
from workers.prices import PriceBoard
from workers.sources.base import Tick
from workers.sources.tape import Trade, read_trades

HEADER = ["ref", "direction", "amount", "multiplier", "take_profit", "stop_loss", "open_at_trade"]
_REF = re.compile(r"\S(?:.{0,62}\S)?")
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)


class PlanError(Exception):
    """The deals file can't be used; the text names the file, the line (from 1) and the reason."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}: line {line}: {reason}")


class PlannedDeal(NamedTuple):
    """A row of the deals file. Levels keep their text for the report."""

    ref: str
    direction: Direction
    amount: Decimal
    multiplier: int
    take_profit: str
    stop_loss: str
    trade: Trade

    @property
    def levels(self) -> Levels:
        """The levels as numbers; an empty text is none."""
        return Levels(_level(self.take_profit), _level(self.stop_loss))


class Tape(NamedTuple):
    """The trades of a tape by id, those the price board accepts, and how many it drops, by reason."""

    accepted: dict[int, Trade]
    trades: int
    dropped: dict[str, int]


def read_tape(path: Path, symbol: str) -> Tape:
    """Read a tape and judge its trades as the running system does. Raises TapeError."""
    clock = TapeClock()
    board = PriceBoard([symbol], token=0, clock=clock)
    accepted, count = {}, 0
    for count, trade in enumerate(read_trades(path), start=1):  # noqa: B007 - the last count is the number of trades
        clock.set(trade.at_ms)
        if board.accept(Tick(symbol, trade.price, trade.at_ms, trade.trade_id)) is not None:
            accepted[trade.trade_id] = trade
    return Tape(accepted, count, dict(board.dropped))


def read_plan(path: Path, tape: Tape) -> list[PlannedDeal]:
    """Read the deals in the file's order. Raises PlanError at the first row that could not be opened."""
    deals: list[PlannedDeal] = []
    refs: set[str] = set()
    for line, row in _rows(path):
        try:
            deal = _deal(row, tape, refs)
        except ValueError as error:
            raise PlanError(path, line, str(error)) from None
        refs.add(deal.ref)
        deals.append(deal)
    return deals


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header != HEADER:
                raise PlanError(path, 1, f"the header must be {','.join(HEADER)}")
            for row in reader:
                if len(row) != len(HEADER):
                    raise PlanError(path, reader.line_num, f"has {len(row)} columns, not {len(HEADER)}")
                yield reader.line_num, row
    except OSError as error:
        raise PlanError(path, 1, error.strerror or str(error)) from error
    except UnicodeDecodeError:
        raise PlanError(path, 1, "is not UTF-8") from None
    except csv.Error as error:
        raise PlanError(path, reader.line_num, str(error)) from error


def _deal(row: list[str], tape: Tape, refs: set[str]) -> PlannedDeal:
    ref, direction, amount, multiplier, take_profit, stop_loss, open_at = row
    if ref in refs:
        raise ValueError(f"ref {ref!r} stands twice")
    if _REF.fullmatch(ref) is None:
        raise ValueError("ref must be 1 to 64 characters without blanks around them")
    trade = _trade(open_at, tape)
    deal = PlannedDeal(
        ref=ref,
        direction=_direction(direction),
        amount=_amount(amount),
        multiplier=_multiplier(multiplier),
        take_profit=_level_text("take_profit", take_profit),
        stop_loss=_level_text("stop_loss", stop_loss),
        trade=trade,
    )
    try:
        check_levels(deal.direction, deal.levels, Decimal(trade.price))
    except LevelError as error:
        raise ValueError(f"{error.field}: {error}") from None
    return deal


def _direction(text: str) -> Direction:
    if text == "up":
        return "up"
    if text == "down":
        return "down"
    raise ValueError(f"direction must be up or down, not {text!r}")


def _amount(text: str) -> Decimal:
    try:
        amount = parse_plain(text)
        check_amount(amount)
    except NotADecimal as error:
        raise ValueError(f"amount {text!r} {error}") from None
    return amount


def _multiplier(text: str) -> int:
    if _WHOLE.fullmatch(text) is None or not 1 <= int(text) <= 100:  # noqa: PLR2004 - the rule itself
        raise ValueError(f"multiplier must be a whole number from 1 to 100, not {text!r}")
    return int(text)


def _level_text(name: str, text: str) -> str:
    try:
        _level(text)
    except NotADecimal as error:
        raise ValueError(f"{name} {text!r} {error}") from None
    return text


def _level(text: str) -> Decimal | None:
    return parse_price(text) if text else None


def _trade(text: str, tape: Tape) -> Trade:
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"open_at_trade must be a trade id, not {text!r}")
    trade = tape.accepted.get(int(text))
    if trade is None:
        raise ValueError(f"open_at_trade {text} is no usable trade of the tape")
    return trade
