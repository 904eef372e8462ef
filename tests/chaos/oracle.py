"""What must be true of every deal, by brute force from the prices that were sent, and of everything around it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from commands.replay_oracle import outcome

from chaos.answers import Answers
from chaos.feed import Feed
from chaos.system import SYMBOLS, System
from deals.sql import statement

DEALS = """
SELECT id, symbol, direction, amount, multiplier, open_price, take_profit, stop_loss, status, monitoring,
       watch_version, watched_from_at, close_price, close_reason, detector, profit, commission
FROM deals ORDER BY id
"""
HISTORY = {
    "deal": "SELECT to_jsonb(deals) FROM deals WHERE id = %s",
    "event": "SELECT to_jsonb(deal_events) FROM deal_events WHERE deal_id = %s ORDER BY id",
    "posting": "SELECT to_jsonb(ledger_entries) FROM ledger_entries WHERE deal_id = %s ORDER BY id",
    "notification": "SELECT to_jsonb(notifications) FROM notifications WHERE deal_id = %s ORDER BY id",
}

UNTOLD = """
SELECT deal_id, kind FROM notifications LEFT JOIN settlements ON settlements.id = settlement_id
WHERE coalesce(published_at, told_at) IS NULL
"""


class _Watch(NamedTuple):
    deal_id: int
    from_ms: int
    take_profit: Decimal | None
    stop_loss: Decimal | None


class Held(NamedTuple):
    """What the trigger book holds of a deal; None where a part of the book does not know it."""

    version: int | None
    upper: float | None
    lower: float | None


class DealRow(NamedTuple):
    """A deal as PostgreSQL has it."""

    id: int
    symbol: str
    direction: str
    amount: Decimal
    multiplier: int
    open_price: Decimal
    take_profit: Decimal | None
    stop_loss: Decimal | None
    status: str
    monitoring: str
    watch_version: int
    watched_from_at: datetime
    close_price: Decimal | None
    close_reason: str | None
    detector: str | None
    profit: Decimal | None
    commission: Decimal | None

    @property
    def watched_from_ms(self) -> int:
        """The time of the price from which on it is watched: of its opening, or its last amendment."""
        return round(self.watched_from_at.timestamp() * 1000)

    @property
    def watch(self) -> _Watch:
        """What is watched: an amended deal is compared anew."""
        return _Watch(self.id, self.watched_from_ms, self.take_profit, self.stop_loss)

    @property
    def in_book(self) -> Held:
        """What the book must hold of it."""
        levels = [None if level is None else float(level) for level in (self.take_profit, self.stop_loss)]
        upper, lower = levels if self.direction == "up" else reversed(levels)
        return Held(self.watch_version, upper, lower)

    def reason_at(self, price: Decimal) -> str | None:
        """Why the deal closes at this price, or None; the Stop Loss wins."""
        sign = 1 if self.direction == "up" else -1
        if self.stop_loss is not None and sign * price <= sign * self.stop_loss:
            return "stop_loss"
        if self.take_profit is not None and sign * price >= sign * self.take_profit:
            return "take_profit"
        return None


class _Right(NamedTuple):
    """A closed deal that was found right, and whether it closed at the price of the very first tick."""

    row: DealRow
    at_first: bool


@dataclass
class Findings:
    """What is wrong: deals by number with what is wrong with them, and everything else."""

    lost: dict[int, str] = field(default_factory=dict)
    duplicated: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    deals: int = 0
    closed: int = 0
    at_first: int = 0
    """Closed at the price of the very first tick that reached a level; the others at a level, or at a later tick."""
    detectors: Counter[str] = field(default_factory=Counter)

    @property
    def deals_in_question(self) -> list[int]:
        """Whose history is to be shown."""
        return sorted({*self.lost, *self.duplicated, *self.wrong})

    @property
    def verdict(self) -> str:
        """In one sentence."""
        if not self:
            return "Nothing was lost, duplicated or wrong."
        return (
            f"NOT AS IT MUST BE: {len(self.lost)} lost, {len(self.duplicated)} duplicated, {len(self.wrong)} wrong, "
            f"{len(self.other)} besides."
        )

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.deals_in_question or self.other)

    def __str__(self) -> str:
        """Everything that is wrong, a line each."""
        groups = (("lost", self.lost), ("duplicated", self.duplicated), ("wrong", self.wrong))
        lines = [f"{kind}: deal {deal_id}: {what}" for kind, group in groups for deal_id, what in group.items()]
        return "\n".join([*lines, *self.other])


class Oracle:
    """Remembers how far each deal was compared, and which closed ones were right: a look costs only what is new."""

    def __init__(self, system: System, feed: Feed) -> None:
        self._system = system
        self._feed = feed
        self._looked: dict[_Watch, int] = {}
        self._crossed: dict[_Watch, int] = {}
        self._right: dict[int, _Right] = {}

    def look(self, answers: Answers) -> Findings:
        """Compare everything with what must be. Raises psycopg.OperationalError, redis.RedisError."""
        findings = Findings()
        taken = dict(self._feed.taken)  # before the rows are read: what is taken later may not be settled in them
        rows = [DealRow(*row) for row in self._system.sql(DEALS)]
        for row in rows:
            self._judge(row, taken, findings)
        findings.other += answers.broken(rows)
        self._look_around(rows, findings)
        findings.deals = len(rows)
        findings.closed = sum(row.status == "closed" for row in rows)
        findings.detectors.update(row.detector for row in rows if row.detector)
        return findings

    def history(self, deal_id: int) -> list[str]:
        """Everything that is known of a deal, for a person."""
        lines = [f"{kind}: {row[0]}" for kind, query in HISTORY.items() for row in self._system.sql(query, deal_id)]
        lines.append(f"fired in Redis: {self._system.redis.hget('fired', str(deal_id))}")
        row = next(DealRow(*row) for row in self._system.sql(DEALS) if row[0] == deal_id)
        lines.append(f"in the book: {self._system.redis.hget(f'book:{row.symbol}:versions', str(deal_id))}")
        first = self._feed.after(row.symbol, row.watched_from_ms)
        crossing = self._crossed.get(row.watch, first)
        sent, taken = self._feed.sent[row.symbol], self._feed.taken[row.symbol]
        lines += [
            f"price {number} {'taken' if number < taken else 'not known to be taken'}: {sent[number]}"
            for number in range(max(first, crossing - 20), min(len(sent), crossing + 20))
        ]
        return lines

    def _judge(self, row: DealRow, taken: dict[str, int], findings: Findings) -> None:
        right = self._right.get(row.id)
        if right is not None and right.row == row:
            findings.at_first += right.at_first
            return
        crossing = self._first_crossing(row)
        if row.status == "open":
            if crossing is not None and crossing < taken[row.symbol]:
                findings.lost[row.id] = (
                    f"crossed by price {crossing}, {self._feed.sent[row.symbol][crossing]}, and is open"
                )
            elif row.monitoring != "armed":
                findings.wrong[row.id] = f"is {row.monitoring}: not protected"
        elif problem := self._closed_wrong(row, crossing):
            findings.wrong[row.id] = problem
        else:
            at_first = crossing is not None and row.close_price == self._feed.sent[row.symbol][crossing].price
            self._right[row.id] = _Right(row, at_first)
            findings.at_first += at_first

    def _first_crossing(self, row: DealRow) -> int | None:
        """The number of the first price after its opening that reaches a level."""
        if row.watch not in self._crossed:
            sent = self._feed.sent[row.symbol]
            since = self._looked.get(row.watch)
            first = self._feed.after(row.symbol, row.watched_from_ms) if since is None else since
            last = len(sent)
            for number in range(first, last):
                if row.reason_at(sent[number].price) is not None:
                    self._crossed[row.watch] = number
                    break
            self._looked[row.watch] = last
        return self._crossed.get(row.watch)

    def _closed_wrong(self, row: DealRow, crossing: int | None) -> str | None:
        assert row.close_price is not None
        since = self._feed.after(row.symbol, row.watched_from_ms) - 1 if row.close_reason == "manual" else crossing
        if since is None:
            return "closed although no price had reached a level"
        if row.close_reason not in {"manual", row.reason_at(row.close_price)}:
            return f"closed at {row.close_price} for {row.close_reason}"
        levels = {row.take_profit, row.stop_loss}
        at_level = row.detector in {"sweep", "arm"} and row.close_price in levels
        sent = self._feed.sent[row.symbol]
        if not at_level and all(row.close_price != sent[number].price for number in range(since, len(sent))):
            return f"closed at {row.close_price}, which no price after its crossing was"
        terms = {"amount": str(row.amount), "multiplier": str(row.multiplier)}
        sign = 1 if row.direction == "up" else -1
        profit, commission = outcome(terms, sign, Fraction(row.open_price), Fraction(row.close_price))
        if (row.profit, row.commission) != (Decimal(profit), Decimal(commission)):
            return f"profit {row.profit} and commission {row.commission}, not {profit} and {commission}"
        return None

    def _look_around(self, rows: list[DealRow], findings: Findings) -> None:
        twice = (
            "SELECT deal_id, kind FROM deal_events WHERE kind IN ('opened', 'closed') GROUP BY 1, 2 HAVING count(*) > 1"
        )
        findings.duplicated |= {deal_id: f"has {kind} twice" for deal_id, kind in self._system.sql(twice)}
        findings.other += [f"ledger: {row[0]}" for row in self._system.sql(statement("ledger_violations"))]
        untold = self._system.sql(UNTOLD)
        findings.other += [f"deal {deal_id}: nobody was told of {kind}" for deal_id, kind in untold]
        letters = self._system.sql("SELECT deal_id, error FROM dead_letters WHERE state = 'failed'")
        findings.other += [f"dead letter: deal {deal_id}: {error}" for deal_id, error in letters]
        findings.other += [f"Redis: {name} holds {left}" for name, left in self._left_in_redis() if left]
        watched = {row.id: row.in_book for row in rows if row.monitoring == "armed" and row.status == "open"}
        book = {deal_id: held for symbol in SYMBOLS for deal_id, held in self._book(symbol).items()}
        differ = sorted(key for key in watched.keys() | book.keys() if watched.get(key) != book.get(key))
        findings.other += [
            f"deal {key}: the book holds {book.get(key)}, PostgreSQL watches {watched.get(key)}" for key in differ[:20]
        ]

    def _book(self, symbol: str) -> dict[int, Held]:
        server: Any = self._system.redis
        versions = server.hgetall(f"book:{symbol}:versions")
        upper, lower = (
            dict(server.zrange(f"book:{symbol}:{side}", 0, -1, withscores=True)) for side in ("upper", "lower")
        )
        members = versions.keys() | upper.keys() | lower.keys()
        return {
            int(member): Held(
                int(versions[member]) if member in versions else None, upper.get(member), lower.get(member)
            )
            for member in members
        }

    def _left_in_redis(self) -> list[tuple[str, Any]]:
        server = self._system.redis
        return [("fired", server.hkeys("fired")), ("fired:at", server.zrange("fired:at", 0, -1))]
