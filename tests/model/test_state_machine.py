"""Random steps through the whole domain, each compared with a model of it; afterwards nothing is left over.

The run is the same every time. `HYPOTHESIS_PROFILE=long` runs many more and longer examples, from new seeds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

import pytest
from django.conf import settings as django_settings
from drawn import Opening, distances, mostly, openings, picks, prices, symbols
from expected import MAX_MONITORING_MS, Expected, Refused
from expected_deal import Entry, ExpectedDeal, Levels
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from real import SYMBOLS, Batch, InRedis, Real, as_scores, entries_of
from servers import Valkey

from deals.queries import current_state, ledger_violations, notifications
from workers import keys, queues, reconcile
from workers.redis_client import connect

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
EXAMPLES, STEPS = (150, 60) if LONG else (16, 40)
LATER_S = 240
"""Long enough for what waits in `fired` to be due again, whenever it was sent last."""


class DomainMachine(RuleBasedStateMachine):
    """Each rule does one thing to the model and to the system."""

    start: ClassVar[Callable[[], Real]]
    seen: ClassVar[Counter[str]]

    @initialize(prices=st.tuples(prices, prices), deals=st.lists(openings, min_size=4, max_size=8))
    def begin(self, prices: tuple[Decimal, Decimal], deals: list[Opening]) -> None:
        self.real = type(self).start()
        self.expected = Expected(SYMBOLS, {key: account.balance for key, account in self.real.accounts.items()})
        self.ever_fired: set[tuple[int, Entry]] = set()
        for symbol, price in zip(SYMBOLS, prices, strict=True):
            self.tick(symbol, price, handing_over=True)
        for opening in deals:
            self.open_deal(opening, arming=True)

    # --- prices ---------------------------------------------------------------------------------------------------

    @rule(symbol=symbols, price=prices, handing_over=mostly)
    def tick(self, symbol: str, price: Decimal, *, handing_over: bool) -> None:
        fired = self.real.tick(symbol, price, handing_over=handing_over)
        assert sorted(fired) == sorted(self.expected.tick(symbol, price, self.real.clock.prices.now_ms()))

    @rule(symbol=symbols, path=st.lists(prices, min_size=2, max_size=4))
    def prices_move(self, symbol: str, path: list[Decimal]) -> None:
        for price in path:
            self.tick(symbol, price, handing_over=True)

    # --- users and operators ----------------------------------------------------------------------------------------

    @rule(opening=openings, arming=mostly)
    def open_deal(self, opening: Opening, *, arming: bool) -> None:
        account = sorted(self.real.accounts)[opening.who]
        levels = self.levels(opening.symbol, opening.direction, opening.distances)
        wanted = ExpectedDeal(
            0, account, *opening[1:5], Decimal(0), *levels, watched_from=0,
            expires_ms=self.real.clock.now_ms() + MAX_MONITORING_MS,
        )  # fmt: skip
        opened = self.real.open(wanted, arming=arming)
        if self.allowed(partial(self.expected.check_open, wanted), opened):
            assert opened is not None
            wanted.id = opened.pk
            self.expected.open(wanted, arming=arming)

    @rule(opening=openings, price=prices)
    def open_while_the_price_moves(self, opening: Opening, price: Decimal) -> None:
        """The tick comes after the commit and before the arming, which looks back to the quote."""
        self.open_deal(opening, arming=False)
        self.tick(opening.symbol, price, handing_over=True)
        self.upkeep("rebuild")

    @precondition(lambda self: self.expected.deals)
    @rule(pick=picks, distances=st.tuples(distances, distances), arming=mostly)
    def amend(self, pick: int, distances: tuple[Decimal | None, Decimal | None], *, arming: bool) -> None:
        self.amend_deal(self.deal(pick), distances, arming=arming)

    @precondition(lambda self: self.expected.fired)
    @rule(pick=picks, arming=mostly)
    def amend_what_has_fired(self, pick: int, *, arming: bool) -> None:
        """The price has come back, and the message is about the levels before."""
        deal = self.expected.deals[sorted(self.expected.fired)[pick % len(self.expected.fired)]]
        self.tick(deal.symbol, deal.open_price, handing_over=True)
        self.amend_deal(deal, (Decimal("0.5"), Decimal("0.5")), arming=arming)
        self.collect()
        messages = [batch for batch in (*self.real.delivered, *self.real.waiting) if deal.id in entries_of(batch)]
        if messages:
            self.deliver(messages[0])

    def amend_deal(self, deal: ExpectedDeal, distances: tuple[Decimal | None, Decimal | None], *, arming: bool) -> None:
        levels = self.levels(deal.symbol, deal.direction, distances)
        now_ms = self.real.clock.now_ms()
        amended = self.real.amend(deal, levels, arming=arming)
        self.allowed(partial(self.expected.amend, deal, levels, now_ms, arming=arming), amended)

    @precondition(lambda self: self.expected.deals)
    @rule(pick=picks, arming=mostly)
    def close_by_hand(self, pick: int, *, arming: bool) -> None:
        deal = self.deal(pick)
        closed = self.real.close_by_hand(deal, arming=arming)
        self.allowed(partial(self.expected.close_by_hand, deal, arming=arming), closed)

    @precondition(lambda self: self.expected.deals)
    @rule(pick=picks, arming=mostly)
    def take_out_of_monitoring(self, pick: int, *, arming: bool) -> None:
        deal = self.deal(pick)
        removed = self.real.remove(deal, arming=arming)
        self.allowed(partial(self.expected.remove, deal, arming=arming), removed)

    @precondition(lambda self: self.expected.deals)
    @rule(pick=picks, arming=mostly)
    def put_back_into_monitoring(self, pick: int, *, arming: bool) -> None:
        deal = self.deal(pick)
        now_ms = self.real.clock.now_ms()
        added = self.real.add(deal, arming=arming)
        self.allowed(partial(self.expected.add, deal, now_ms, arming=arming), added)

    @rule(kind=st.sampled_from(["draining", "stopped", "halted"]), telling_redis=mostly)
    def stop_the_system_or_resume(self, kind: str, *, telling_redis: bool) -> None:
        if self.expected.state != "running":
            self.real.resume()
            self.expected.resume()
            return
        self.real.stop(kind, telling_redis=telling_redis)
        self.expected.state = kind
        if telling_redis:
            self.expected.state_in_redis = kind

    # --- workers, sweep, prices process -----------------------------------------------------------------------------

    @precondition(lambda self: self.real.waiting)
    @rule(pick=picks, fate=st.sampled_from(["taken", "taken", "taken by two", "lost"]))
    def a_message(self, pick: int, fate: str) -> None:
        batch = self.real.waiting.pop(pick % len(self.real.waiting))
        for _ in range({"taken": 1, "taken by two": 2, "lost": 0}[fate]):
            self.deliver(batch)

    @precondition(lambda self: self.real.delivered)
    @rule(pick=picks)
    def an_old_message_comes_again(self, pick: int) -> None:
        self.deliver(self.real.delivered[-1 - pick % len(self.real.delivered)])

    @rule(later_s=st.sampled_from([0, LATER_S, 100_000]))
    def sweep(self, later_s: int) -> None:
        """After four minutes all that waits in `fired` is due again; after a day monitoring ends."""
        waited = set(self.expected.fired.items())
        report = self.real.sweep(later_s=later_s)
        assert sorted(report.found_ids) == sorted(self.expected.sweep(self.real.clock.now_ms()))
        assert report.book_lost == (self.expected.book_lost and self.expected.state == "running")
        self.ever_fired |= set(self.expected.fired.items())
        sent = set(self.collect())
        waiting = set(self.expected.fired.items())
        assert waiting - waited <= sent
        if later_s and self.expected.state == "running":
            assert waiting <= sent

    @rule(what=st.sampled_from(["rebuild", "renew"]))
    def upkeep(self, what: str) -> None:
        """Of the book, as the sweep and beat start it; of the leases, as the prices process does every second."""
        if what == "renew":
            self.real.renew_leases()
            self.expected.settled_forgotten()
            return
        if self.expected.book_lost:
            reconcile.reconcile()
            self.expected.state_in_redis = self.expected.state
        else:
            reconcile.rebuild()
        self.expected.rebuild()

    # --- faults -----------------------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(["book", "book", "redis", "redis", "silence", "engine", "zombie"]),
        pick=picks,
        price=prices,
    )
    def something_breaks(self, kind: str, pick: int, price: Decimal) -> None:
        if kind == "book":
            for deal_id in [key for key in self.expected.book if self.expected.deals[key].symbol == SYMBOLS[pick % 2]]:
                self.real.lose_from_book(self.expected.deals[deal_id])
                del self.expected.book[deal_id]
        elif kind == "redis":
            self.real.empty_redis()
            self.expected.redis_forgets()
            self.expected.redis_gets_back()
        elif kind == "silence":
            self.real.be_silent(silent=True)
            self.expected.silent = True
        elif kind == "engine":
            self.real.replace_engine(in_order=bool(pick % 2))
            self.expected.engine_replaced()
        elif kind == "zombie":
            self.real.former_tick(SYMBOLS[pick % 2], price)

    @precondition(lambda self: self.expected.fired)
    @rule(noticed_late=st.booleans())
    def redis_is_flushed(self, *, noticed_late: bool) -> None:
        """Without a restart; the sweep and the rebuild may come before the prices process has noticed."""
        connect().flushall()
        self.expected.redis_forgets()
        if noticed_late:
            self.sweep(0)
            self.upkeep("rebuild")
        self.real.notice_flush()
        self.expected.redis_gets_back()
        self.expected.rebuild()

    # --- what must hold after every step ------------------------------------------------------------------------------

    @invariant()
    def the_system_is_as_the_model_says(self) -> None:
        type(self).seen["steps"] += 1
        self.ever_fired |= set(self.expected.fired.items())
        assert set(self.collect()) <= self.ever_fired
        self.compare_deals()
        self.compare_accounts()
        held = {key: as_scores(held) for key, held in self.expected.book.items()}
        assert self.real.redis() == InRedis(held, self.expected.fired, self.expected.state_in_redis)
        assert current_state().state == self.expected.state

    def compare_deals(self) -> None:
        rows, events, told = self.real.deals(), self.real.events(), self.real.told()
        assert rows.keys() == self.expected.deals.keys()
        for key, deal in self.expected.deals.items():
            row = rows[key]
            assert (row.status, row.monitoring, row.watch_version) == (deal.status, deal.monitoring, deal.version)
            assert (row.take_profit, row.stop_loss) == (deal.take_profit, deal.stop_loss)
            assert (row.upper_trigger, row.lower_trigger) == (deal.upper, deal.lower)
            assert (row.close_price, row.close_reason, row.detector) == (deal.close_price, deal.reason, deal.detector)
            assert (row.open_price, row.profit) == (deal.open_price, deal.profit)
            assert events[key] == deal.events
            assert told.get(key, []) == deal.told

    def compare_accounts(self) -> None:
        assert self.real.postings() == self.expected.postings
        for key, row in self.real.balances().items():
            assert (row.balance, row.margin) == (self.expected.balance(key), self.expected.margin(key))
            figures = (row.closed_deals, row.winning_deals, row.total_volume, row.total_amount)
            assert (*figures, row.largest_profit, row.largest_loss) == self.expected.statistics(key)

    def teardown(self) -> None:
        """Whatever happened: everything that fired closes, the rest is closed by hand, and nothing is left anywhere."""
        if not hasattr(self, "real"):
            return
        try:
            self.finish()
        finally:
            self.real.close()

    def finish(self) -> None:
        self.real.resume()
        self.expected.resume()
        for symbol in SYMBOLS:
            self.tick(symbol, Decimal(100), handing_over=True)
        for _ in range(2):  # what the second finds waiting, the first has fired
            self.sweep(LATER_S)
            self.upkeep("rebuild")
            self.collect()
            while self.real.waiting:
                self.deliver(self.real.waiting.pop())
        self.the_system_is_as_the_model_says()
        assert self.expected.fired == {}
        for deal in self.expected.deals.values():
            assert deal.watched == (deal.id in self.expected.book)
            if deal.status == "open":
                self.real.close_by_hand(deal, arming=True)
                self.expected.close_by_hand(deal, arming=True)
        self.upkeep("renew")
        self.sweep(LATER_S)
        self.the_system_is_as_the_model_says()
        self.nothing_is_left()
        self.seen.update(f"by {deal.detector}" for deal in self.expected.deals.values())
        self.seen.update(deal.reason or "" for deal in self.expected.deals.values())
        self.seen.update(event for deal in self.expected.deals.values() for event, _version in deal.events)
        self.seen["examples"] += 1

    def nothing_is_left(self) -> None:
        assert ledger_violations() == []
        assert not notifications().filter(told_at=None).exists()
        assert queues.depth("closures") == 0
        kept = {keys.state(), keys.book_epoch(), keys.book_progress(), keys.counters(), keys.events()}
        kept |= {key(symbol) for symbol in SYMBOLS for key in (keys.price, keys.window, keys.lease)}
        assert {str(key) for key in connect().scan_iter()} <= kept
        assert self.real.market.engine.memory.unsettled == {}

    # --- help -------------------------------------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> None:
        assert self.real.deliver(batch) == self.expected.settle(entries_of(batch))

    def collect(self) -> list[tuple[int, Entry]]:
        return self.real.collect()

    def deal(self, pick: int) -> ExpectedDeal:
        """Open ones first, the newest first."""
        ranked = sorted(self.expected.deals.values(), key=lambda deal: (deal.status, deal.id), reverse=True)
        return ranked[pick % len(ranked)]

    def levels(self, symbol: str, direction: str, distances: tuple[Decimal | None, Decimal | None]) -> Levels:
        """Levels at these distances from the last price; a negative distance lies on the wrong side."""
        ticks = self.expected.ticks[symbol]
        price = ticks[-1].price if ticks else Decimal(100)
        sign = 1 if direction == "up" else -1
        take, stop = distances
        return (None if take is None else price + sign * take, None if stop is None else price - sign * stop)

    def allowed(self, step: Callable[[], None], outcome: object) -> bool:
        """Run the model's step; the system did it if and only if the model does."""
        try:
            step()
        except Refused:
            assert outcome is None, "the system did what must be refused"
            self.seen["refused"] += 1
            return False
        assert outcome is not None, "the system refused what must be done"
        return True


@pytest.fixture
def start(transactional_db: None, the_system_runs: None, valkey: Valkey, settings: Any) -> Iterator[Callable[[], Real]]:
    """Starts a system on the test's own Valkey; PostgreSQL and the queue stay where they were."""
    settings.REDIS_URL = valkey.url
    settings.SYMBOLS = SYMBOLS
    settings.STATIC_ONLY = False
    settings.REDIS_TIMEOUT_S = 20  # a slow machine is no outage
    connect.cache_clear()
    # Django's own settings: pytest-django's `settings` would put one layer over another with every change.
    yield lambda: Real(valkey, django_settings)
    connect().close()
    connect.cache_clear()


@pytest.mark.timeout(0 if LONG else 300)
def test_whatever_happens_the_system_agrees_with_the_model(
    start: Callable[[], Real], capsys: pytest.CaptureFixture[str]
) -> None:
    machine: Any = type("Machine", (DomainMachine,), {"start": staticmethod(start), "seen": Counter()})
    limits = hypothesis_settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=not LONG,
        database=None,
        phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],  # shrinking may take minutes
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=limits)
    finally:
        if LONG:
            with capsys.disabled():
                print("\n", dict(machine.seen))  # noqa: T201 what make test-model shows
    closures = {"by tick", "by arm", "by sweep", "by manual", "take_profit", "stop_loss"}
    assert closures | {"amended", "removed", "expired", "refused"} <= machine.seen.keys(), "too few things happened"
