"""Reads the deals of a replay and checks them against the tape, as opening them would. Touches no server.

The tape may be far larger than memory: only the trades at which deals open are kept.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from deals.money import NotADecimal, check_amount, parse_plain, parse_price
from deals.triggers import Direction, LevelError, Levels, check_levels
from workers.clock import TapeClock
from workers.prices import PriceBoard
from workers.replay.errors import PlanError
from workers.sources.base import Tick
from workers.sources.tape import Trade, read_trades

HEADER: Final = ["ref", "direction", "amount", "multiplier", "take_profit", "stop_loss", "open_at_trade"]
DIRECTIONS: Final[dict[str, Direction]] = {"up": "up", "down": "down"}
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN: Final = 60


class DealRow(NamedTuple):
    """A row of the deals file, read but not yet held against the tape. Levels keep their text for the report."""

    line: int
    ref: str
    direction: Direction
    amount: Decimal
    multiplier: int
    take_profit: str
    stop_loss: str
    open_at_trade: int

    @property
    def levels(self) -> Levels:
        """The levels as numbers; an empty text is none."""
        return Levels(_level(self.take_profit), _level(self.stop_loss))


class PlannedDeal(NamedTuple):
    """A deal and the trade at whose price it opens."""

    row: DealRow
    trade: Trade


class Tape(NamedTuple):
    """What a replay must know of a tape beforehand.

    openings   the trades at which deals open, by id
    unusable   those of them that the price board drops
    trades     number of rows
    dropped    how many trades the price board drops, by reason
    low, high  the extreme prices
    """

    openings: dict[int, Trade]
    unusable: set[int]
    trades: int
    dropped: dict[str, int]
    low: Decimal
    high: Decimal


def read_deals(path: Path) -> list[DealRow]:
    """Read the deals in the file's order. Raises PlanError at the first row that says nothing usable."""
    rows: list[DealRow] = []
    lines_of: dict[str, int] = {}
    for line, cells in _rows(path):
        try:
            row = _deal_row(line, cells)
            _claim(row, lines_of)
        except ValueError as error:
            raise PlanError(path, line, str(error)) from None
        rows.append(row)
    return rows


def read_tape(path: Path, symbol: str, wanted: Collection[int]) -> Tape:
    """Read a tape and judge its trades as the running system does; `wanted` are trade ids. Raises TapeError."""
    clock = TapeClock()
    board = PriceBoard([symbol], token=0, clock=clock)
    openings: dict[int, Trade] = {}
    unusable: set[int] = set()
    count, low, high = 0, Decimal("Infinity"), Decimal(0)
    for count, trade in enumerate(read_trades(path), start=1):  # noqa: B007 - the last count is the number of trades
        clock.set(trade.at_ms)
        price = board.accept(Tick(symbol, trade.price, trade.at_ms, trade.trade_id))
        if price is not None:
            low, high = min(low, price.value), max(high, price.value)
        if trade.trade_id in wanted:
            openings[trade.trade_id] = trade
            if price is None:
                unusable.add(trade.trade_id)
    return Tape(openings, unusable, count, dict(board.dropped), low, high)


def plan_deals(path: Path, rows: list[DealRow], tape: Tape) -> list[PlannedDeal]:
    """Join the deals of file `path` with their trades. Raises PlanError at the first one that could not be opened."""
    plan = []
    for row in rows:
        try:
            plan.append(PlannedDeal(row, _opening_trade(row, tape)))
            check_levels(row.direction, row.levels, Decimal(plan[-1].trade.price))
        except LevelError as error:
            raise PlanError(path, row.line, f"{error.field}: {error}") from None
        except ValueError as error:
            raise PlanError(path, row.line, str(error)) from None
    return plan


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines after the header, split into their seven cells; blank lines at the end don't count."""
    lines = _lines(path)
    if not lines or _cells(path, 1, lines[0]) != HEADER:
        raise PlanError(path, 1, f"the header must be {','.join(HEADER)}")
    for number, line in enumerate(lines[1:], start=2):
        cells = _cells(path, number, line)
        if len(cells) != len(HEADER):
            raise PlanError(path, number, f"has {len(cells)} columns, not {len(HEADER)}")
        yield number, cells


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PlanError(path, None, error.strerror or str(error)) from error
    lines = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\n"), start=1):
        try:
            lines.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise PlanError(path, number, "is not UTF-8") from None
    return lines


def _cells(path: Path, number: int, line: str) -> list[str]:
    # Line by line: no field may hold a line end, so that an open quote is reported where it stands.
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise PlanError(path, number, str(error)) from error


def _deal_row(line: int, cells: list[str]) -> DealRow:
    ref, direction, amount, multiplier, take_profit, stop_loss, open_at = cells
    if not ref.strip() or _CONTROL.search(ref):
        raise ValueError("ref must not be empty or hold control characters")
    return DealRow(
        line=line,
        ref=ref,
        direction=_direction(direction),
        amount=_amount(amount),
        multiplier=_multiplier(multiplier),
        take_profit=_level_text("take_profit", take_profit),
        stop_loss=_level_text("stop_loss", stop_loss),
        open_at_trade=_trade_id(open_at),
    )


def _claim(row: DealRow, lines_of: dict[str, int]) -> None:
    first = lines_of.setdefault(row.ref, row.line)
    if first != row.line:
        raise ValueError(f"ref {_shown(row.ref)} stands in line {first} already")


def _direction(text: str) -> Direction:
    if text not in DIRECTIONS:
        raise ValueError(f"direction must be up or down, not {_shown(text)}")
    return DIRECTIONS[text]


def _amount(text: str) -> Decimal:
    try:
        amount = parse_plain(text)
        check_amount(amount)
    except NotADecimal as error:
        raise ValueError(f"amount {_shown(text)} {error}") from None
    return amount


def _multiplier(text: str) -> int:
    if _WHOLE.fullmatch(text) is None or not 1 <= int(text) <= 100:  # noqa: PLR2004 - the rule itself
        raise ValueError(f"multiplier must be a whole number from 1 to 100, not {_shown(text)}")
    return int(text)


def _level_text(name: str, text: str) -> str:
    try:
        _level(text)
    except NotADecimal as error:
        raise ValueError(f"{name} {_shown(text)} {error}") from None
    return text


def _level(text: str) -> Decimal | None:
    return parse_price(text) if text else None


def _trade_id(text: str) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"open_at_trade must be a trade id, not {_shown(text)}")
    return int(text)


def _opening_trade(row: DealRow, tape: Tape) -> Trade:
    trade = tape.openings.get(row.open_at_trade)
    if trade is None:
        raise ValueError(f"open_at_trade {row.open_at_trade} is not in the tape")
    if row.open_at_trade in tape.unusable:
        raise ValueError(f"open_at_trade {row.open_at_trade} is dropped: the tape has a later time before it")
    return trade


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
