"""Recorded trades from Binance's public archives (data.binance.vision): a strict reader, a replaying source.

The reader refuses a malformed file; it doesn't judge the market: times that go backwards are passed on.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import math
import re
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from deals.money import NotADecimal, parse_price
from workers.clock import Clock
from workers.sources.base import Heartbeat, Tick
from workers.sources.errors import SourceError

_COLUMNS = (6, 7)  # newer archives end with isBestMatch
_INTEGER = re.compile(rb"[0-9]{1,18}")
# Spot archives hold microseconds since 2025. As milliseconds such a number would lie after the year 5000.
_FIRST_MICROSECONDS = 10**14
_LAST_MICROSECONDS = 10**17
_YIELD_EVERY = 256  # a tape at full speed must not keep the event loop for itself


class TapeError(SourceError):
    """A tape can't be read; the text names the file, the line (from 1) and the reason."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        where = str(path) if line is None else f"{path}: line {line}"
        super().__init__(f"{where}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class Trade(NamedTuple):
    """One row of a tape: its line (from 1), the trade's number, the price as written, the time in ms."""

    line: int
    trade_id: int
    price: str
    at_ms: int


def read_trades(path: str | Path) -> Iterator[Trade]:
    """Yield the trades of a CSV without header: id, price, qty, quote qty, time, is-buyer-maker[, best].

    Only id, price and time are used. Time is in milliseconds, or in microseconds as in spot archives since
    2025. What editors add is passed over: a byte order mark, quotes, blank lines at the end.
    Raises TapeError at the first row that is not exactly that, or if the file is missing or empty.
    """
    path = Path(path)
    previous_id: int | None = None
    blank = 0
    try:
        with path.open("rb") as rows:
            for line, raw in enumerate(rows, start=1):
                row = (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).rstrip(b"\r\n")
                if not row:
                    blank = blank or line
                    continue
                if blank:
                    raise TapeError(path, blank, "is blank")
                trade = _parse_row(path, line, row)
                if previous_id is not None and trade.trade_id <= previous_id:
                    reason = f"trade id {trade.trade_id} does not rise (the row before has {previous_id})"
                    raise TapeError(path, line, reason)
                previous_id = trade.trade_id
                yield trade
    except OSError as error:
        raise TapeError(path, None, error.strerror or str(error)) from error
    if previous_id is None:
        raise TapeError(path, None, "is empty")


def _parse_row(path: Path, line: int, row: bytes) -> Trade:
    try:
        text = row.decode()
    except UnicodeDecodeError:
        raise TapeError(path, line, "is not UTF-8") from None
    cells = _unquoted(path, line, text) if b'"' in row else row.split(b",")
    if len(cells) not in _COLUMNS:
        raise TapeError(path, line, f"has {len(cells)} columns, not 6 or 7")
    try:
        return Trade(line, _integer("trade id", cells[0]), _price(cells[1]), _milliseconds(cells[4]))
    except ValueError as error:
        raise TapeError(path, line, str(error)) from None


def _unquoted(path: Path, line: int, row: str) -> list[bytes]:
    try:
        return [cell.encode() for cell in next(csv.reader([row], strict=True))]
    except csv.Error as error:
        raise TapeError(path, line, str(error)) from error


def _integer(name: str, cell: bytes) -> int:
    if not _INTEGER.fullmatch(cell):
        raise ValueError(f"{name} {_shown(cell)} is not a whole number")
    return int(cell)


def _milliseconds(cell: bytes) -> int:
    value = _integer("time", cell)
    if value >= _LAST_MICROSECONDS:
        raise ValueError(f"time {value} is neither milliseconds nor microseconds")
    return value // 1000 if value >= _FIRST_MICROSECONDS else value


def _price(cell: bytes) -> str:
    text = cell.decode()
    try:
        parse_price(text)
    except NotADecimal as error:
        raise ValueError(f"price {_shown(cell)} {error}") from None
    return text


def _shown(cell: bytes) -> str:
    return repr(cell[:40].decode(errors="replace"))


class TapeSource:
    """Replays a tape once, in the file's order, and ends.

    speed    "max": as fast as it is read; a number N: N times real time by the tape's own times
    clock    moves the tape's times: its first trade happens now by this clock, the others at their pace, a number;
             without it they stay what they are, long stale for a system that runs today
    Raises SourceError, and TapeError from the iteration.
    """

    name = "tape"

    def __init__(
        self, path: str | Path, symbol: str, speed: float | Literal["max"] = "max", *, clock: Clock | None = None
    ) -> None:
        self.heartbeat = Heartbeat()
        self._path = Path(path)
        self._symbol = symbol
        self._speed = speed
        self._clock = clock
        if clock is not None and speed == "max":
            raise SourceError("a tape whose times are moved to today needs a number as its speed")

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield the tape's trades."""
        pace = None if self._speed == "max" else _Pace(self._speed)
        start_ms = None if self._clock is None else self._clock.now_ms()
        for count, trade in enumerate(read_trades(self._path), start=1):
            at_ms = trade.at_ms
            if pace is not None:
                await pace.wait_until(trade.at_ms)
                if start_ms is not None:
                    at_ms = start_ms + math.floor(pace.since_start_s(trade.at_ms) * 1000)
            elif count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            self.heartbeat.beat()
            yield Tick(self._symbol, trade.price, at_ms, trade.trade_id)


class _Pace:
    """The tape's clock, started with its first trade and run at `speed`."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first_ms: int | None = None
        self._started_s = 0.0

    async def wait_until(self, at_ms: int) -> None:
        """Sleep until it has come to a time."""
        now_s = time.monotonic()
        if self._first_ms is None:
            self._first_ms, self._started_s = at_ms, now_s
        due_s = self._started_s + self.since_start_s(at_ms)
        await asyncio.sleep(max(0.0, due_s - now_s))

    def since_start_s(self, at_ms: int) -> float:
        """How long after the first trade a time of the tape comes, in seconds of ours; equal times come together."""
        return 0.0 if self._first_ms is None else (at_ms - self._first_ms) / 1000 / self._speed


def parse_speed(text: str) -> float | Literal["max"]:
    """Read a speed as an operator writes it: `max` or a positive number. Raises SourceError."""
    if text == "max":
        return "max"
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) and float(text) > 0:
        return float(text)
    raise SourceError(f"speed {text!r} is neither max nor a positive number")
