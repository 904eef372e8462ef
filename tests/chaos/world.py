"""A running system with prices, traders and an oracle: what is broken in it, and what is measured and checked then."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import redis

from chaos.faults import WAITING, Fault, Undo
from chaos.feed import Feed
from chaos.oracle import Findings, Oracle
from chaos.system import SYMBOLS, System, running_system, wait
from chaos.traders import Traders, terms

AWAY = (psycopg.OperationalError, redis.RedisError, OSError)
RECOVERED_S = 300.0
TRY_S = 180.0
"""Patience, no promise: on a busy machine a process may take minutes to come back."""
MESSAGES = ("celery:closures", "celery:default", "celery:unacked")


class Loss(Exception):
    """Something is not as it must be; the text says everything that is known, `findings` what is wrong with deals."""

    def __init__(self, text: str, findings: Findings | None = None) -> None:
        super().__init__(text)
        self.findings = findings


class Event(NamedTuple):
    """A fault that happened, when (ms since 1970), and how long the recovery took if it was measured (s)."""

    fault: Fault
    at_ms: int
    recovery_s: float | None = None


class World:
    """Not thread-safe but for what it owns. `events` is everything that was broken, in order."""

    def __init__(self, system: System, seed: int) -> None:
        self.system = system
        self.feed = Feed(system, seed)
        self.traders = Traders(system, self.feed, seed=seed)
        self.oracle = Oracle(system, self.feed)
        self.rng = random.Random(seed)
        self._seed = seed
        self.events: list[Event] = []
        self.stopped: set[str] = set()
        """Programs that stand still: nobody waits for them."""
        self._undos: list[tuple[float, Undo]] = []
        self._probes = 0

    def end(self) -> None:
        """Stop prices and traders."""
        self.traders.end()
        self.feed.end()

    # --- breaking --------------------------------------------------------------------------------------------

    def break_now(self, fault: Fault) -> Undo | None:
        """Do it, as soon as what is to be broken is there: the seed chooses, however often it has to be tried."""
        deadline = time.monotonic() + TRY_S
        while True:
            self.mend_due()
            try:
                at_ms = time.time_ns() // 1_000_000
                undo = fault.do(self.system, random.Random(f"{self._seed}:{len(self.events)}"))
                break
            except AWAY as error:
                if time.monotonic() > deadline:
                    raise Loss(f"`{fault.name}` could not be done in {TRY_S:.0f} s: {error!r}") from error
                time.sleep(0.1)
        self.events.append(Event(fault, at_ms))
        if undo:
            self._undos.append((time.monotonic() + undo.after_s, undo))
        return undo

    def mend_due(self) -> None:
        """Mend by hand what is due; what cannot be mended right now stays due."""
        for at_s, undo in list(self._undos):
            if time.monotonic() >= at_s:
                with contextlib.suppress(*AWAY):
                    undo.mend()
                    self._undos.remove((at_s, undo))

    def mend_all(self) -> None:
        """Wait until all is mended that is mended by hand; AssertionError when that never comes."""

        def is_mended() -> bool:
            self.mend_due()
            return not self._undos

        wait(is_mended, RECOVERED_S, "all that was broken is mended")

    # --- checking --------------------------------------------------------------------------------------------

    def check(self, timeout_s: float = RECOVERED_S) -> Findings:
        """Stand still until nothing is wrong; Loss with the deals' whole history when that never comes."""
        self.stand_still()
        deadline = time.monotonic() + timeout_s
        while True:
            findings = self.look()
            if not findings:
                return findings
            if time.monotonic() > deadline:
                raise Loss(self.story(findings), findings)
            time.sleep(0.5)

    def drain(self) -> None:
        """Wait until no message is left with the broker: neither one that waits nor one that somebody died with."""
        wait(lambda: not self.system.redis.exists(*MESSAGES), RECOVERED_S, "no message is left")

    def stand_still(self) -> None:
        """Nothing is broken by us any more, and no request and no price is under way."""
        self.mend_all()  # first: until then a trader may get no answer and a price not be taken
        self.traders.pause()
        self.feed.pause()

    def look(self) -> Findings:
        """What is wrong at this moment, also that it cannot be told."""
        try:
            findings = self.oracle.look(self.traders.answers)
        except AWAY as error:
            return Findings(other=[f"a server is away: {error}"])
        findings.other += self.traders.problems
        return findings

    def story(self, findings: Findings) -> str:
        """What is wrong, and everything that is known of these deals."""
        lines = [str(findings)]
        for deal_id in findings.deals_in_question[:20]:
            lines += [f"--- deal {deal_id}", *self.oracle.history(deal_id)]
        lines += ["--- the last faults", *(f"{event.at_ms} {event.fault.name}" for event in self.events[-30:])]
        return "\n".join(lines)

    # --- measuring -------------------------------------------------------------------------------------------

    def survive(self, fault: Fault) -> float:
        """Break it beside deals that cross, and wait until they are closed; seconds from the fault to that.

        From the mending, for what is mended by hand and stops closing until then. Loss when anything is wrong.
        """
        self.check()
        wait(lambda: self.system.is_whole(without=self.stopped), RECOVERED_S, "every program says that it lives")
        ids = self.open_probes()
        targets = {symbol: self.feed.price(symbol) * 102 / 100 for symbol in SYMBOLS}
        with self._in_the_middle(ids, targets) if fault.amid else contextlib.nullcontext():
            began = time.monotonic()
            undo = self.break_now(fault)
        moving = threading.Thread(target=self.feed.go, args=[targets])
        moving.start()
        ended = self._when_survived(fault, ids)
        while moving.is_alive():  # deals may close while their price cannot be written
            self.mend_due()
            moving.join(0.1)
        if undo and fault.from_mending:
            began += undo.after_s
        recovery_s = max(0.0, ended - began)
        self.events[-1] = self.events[-1]._replace(recovery_s=recovery_s)
        self.check()
        return recovery_s

    @contextlib.contextmanager
    def _in_the_middle(self, ids: list[int], targets: dict[str, Decimal]) -> Iterator[None]:
        """Let the deals fire and a worker wait in the middle of their settlement, for a row that we hold."""
        with contextlib.suppress(*AWAY), psycopg.connect(self.system.database_url) as holder:
            holder.execute("SELECT 1 FROM deals WHERE id = %s FOR UPDATE", [ids[len(ids) // 2]])
            self.feed.go(targets)
            wait(lambda: self.system.sql(WAITING), 60, "a worker is in the middle of a settlement")
            yield

    def open_probes(self, gain: float = 0.01) -> list[int]:
        """A deal of each symbol that closes so much higher; their numbers, when they are armed."""
        ids = []
        for symbol in SYMBOLS:
            self._probes += 1
            request = terms(
                symbol=symbol, direction="up", amount="1", price=self.feed.price(symbol), gain=gain, loss=0.5,
                sides=("takeProfit", "stopLoss"),
            )  # fmt: skip
            found = self.traders.open(f"probe-{self._probes}", request, self.system.tokens[0])
            if found is None:
                raise Loss(f"a deal beside no fault was refused: {request}")
            ids.append(found)
        wait(lambda: self._count(ids, "monitoring = 'armed'") == len(ids), 60, "all are armed")
        return ids

    def _when_survived(self, fault: Fault, ids: list[int]) -> float:
        def survived() -> bool:
            self.mend_due()
            return self._count(ids, "status = 'closed'") == len(ids)

        if fault.name == "web killed":
            self.open_probes(gain=0.5)  # the price moves meanwhile
        wait(survived, RECOVERED_S, f"deals close after `{fault.name}`")
        return time.monotonic()

    def _count(self, ids: list[int], condition: str) -> int:
        rows: Any = self.system.sql(f"SELECT count(*) FROM deals WHERE id = ANY(%s) AND {condition}", ids)  # noqa: S608 our own text
        return int(rows[0][0])


@contextlib.contextmanager
def running_world(seed: int) -> Iterator[World]:
    """A world on a system of its own, until the block ends."""
    with running_system() as system:
        world = World(system, seed)
        try:
            world.feed.go({})
            yield world
        finally:
            world.end()
