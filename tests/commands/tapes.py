"""Seeded tapes and deals for replays: ordinary walks, and everything at the edge that the rules speak of."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

FIRST_ID = 553_000_000
FIRST_MS = 1_610_064_000_000
DEALS_HEADER = "ref,direction,amount,multiplier,take_profit,stop_loss,open_at_trade"
AMOUNTS = ("0.00000001", "0.00000003", "1", "10.00", "0010.5", "9999999.99999999", "333.33333333")
HUGE = "1234567890.12345678"
"""Only without leverage: what a hundredfold move makes of it must fit a money field, twelve digits before the point."""


class Row(NamedTuple):
    """A trade with its price in ticks, the smallest step."""

    number: int
    ticks: int
    at_ms: int


class Generated(NamedTuple):
    """A tape as written, and what is needed to invent deals for it."""

    path: Path
    rows: list[Row]
    places: int


def price_text(ticks: int, places: int) -> str:
    """A price of so many ticks, with all its decimals."""
    whole, rest = divmod(ticks, 10**places)
    return f"{whole}.{rest:0{places}d}"


def write_tape(path: Path, *, seed: int, trades: int, places: int) -> Generated:
    """A walk with equal times, equal prices, gaps of seconds to hours, and jumps: small, large, to a tenth, tenfold."""
    rng = random.Random(seed)
    start = {2: 3_943_248, 8: 4_512}[places]
    ticks, at_ms, number = start, FIRST_MS, FIRST_ID
    rows: list[Row] = []
    for _ in range(trades):
        rows.append(Row(number, ticks, at_ms))
        ticks = max(1, _next_ticks(rng, ticks, start))
        at_ms += rng.choice((0, 0, 1, 7, 50, 900, 12_000) if rng.random() < 0.99 else (60_000, 3_600_000))
        number += rng.choice((1, 1, 1, 5))
    return write_rows(path, rows, places)


def _next_ticks(rng: random.Random, ticks: int, start: int) -> int:
    luck = rng.random()
    if luck < 0.2:
        return ticks
    if luck < 0.9:
        return ticks + rng.randint(-ticks // 2000 - 2, ticks // 2000 + 2)
    if luck < 0.985:
        return ticks + rng.randint(-ticks // 50 - 2, ticks // 50 + 2)
    return rng.choice((start, start // 10, start * 10, start * 2, start // 2))


def write_rows(path: Path, rows: list[Row], places: int = 2) -> Generated:
    """A tape of exactly these trades."""
    lines = [f"{row.number},{price_text(row.ticks, places)},0.5,1.0,{row.at_ms},True\n" for row in rows]
    path.write_text("".join(lines))
    return Generated(path, rows, places)


def read_generated(path: Path) -> Generated:
    """A recorded tape with two decimals, to invent deals for it."""
    cells = [line.split(",") for line in path.read_text().splitlines()]
    return Generated(path, [Row(int(c[0]), round(float(c[1]) * 100), int(c[4])) for c in cells], 2)


def write_deals(path: Path, tape: Generated, *, seed: int, deals: int) -> Path:
    """Deals of every kind; a tenth opens at one trade, some at the first and at the last."""
    rng = random.Random(seed)
    crowded = rng.choice(tape.rows)
    lines = [DEALS_HEADER]
    for number in range(deals):
        opening = rng.choice(tape.rows)
        if rng.random() < 0.12:
            opening = rng.choice((crowded, crowded, crowded, crowded, tape.rows[0], tape.rows[-1]))
        lines.append(_deal(rng, f"deal-{number}", opening, tape))
    path.write_text("\n".join(lines) + "\n")
    return path


def _deal(rng: random.Random, ref: str, opening: Row, tape: Generated) -> str:
    above = _level(rng, opening, tape, 1) if rng.random() < 0.85 else ""
    below = _level(rng, opening, tape, -1) if rng.random() < 0.85 else ""
    direction = rng.choice(("up", "down"))
    take_profit, stop_loss = (above, below) if direction == "up" else (below, above)
    amount = rng.choice(AMOUNTS) if rng.random() < 0.2 else f"{rng.uniform(0.01, 5000):.{rng.randint(0, 8)}f}"
    amount = amount if float(amount) else "1"
    multiplier = rng.choice((1, 100, rng.randint(1, 100)))
    if multiplier == 1 and rng.random() < 0.1:
        amount = HUGE
    return f"{ref},{direction},{amount},{multiplier},{take_profit},{stop_loss},{opening.number}"


def _level(rng: random.Random, opening: Row, tape: Generated, side: int) -> str:
    """A level on one side of the opening price: a tick away, near, on a price of the tape, between prices, or far."""
    near = opening.ticks + side * rng.randint(1, opening.ticks // 500 + 2)
    on_tape = rng.choice(tape.rows).ticks
    far = opening.ticks * 1000 if side > 0 else 1
    ticks = rng.choice((opening.ticks + side, near, near, on_tape, on_tape, far))
    if side * (ticks - opening.ticks) <= 0:
        ticks = opening.ticks + side
    if ticks <= 0:
        return ""
    text = price_text(ticks, tape.places)
    # More digits than the tape has, zeros at the end, or none of them: the same number is written in many ways.
    ending = rng.choice(("", "", "0", "5" if side > 0 else "", "000"))
    return text.rstrip("0").rstrip(".") if ending == "000" and rng.random() < 0.5 else text + ending
