"""Users, workers, ticks, the sweep and operators at the same deals at the same moment, with the book and the queue.

The other races are between transactions; here each side goes on after its commit, as it does in the running system.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError
from domain import at_once, errors_of, new_account
from factories import set_price
from market import BTC, NOT_IN_BOOK, in_book, lose_from_book

from deals import services
from deals.errors import Conflict, DealError, Unavailable
from deals.models import Account, Deal, DealEvent, LedgerEntry, Notification
from deals.queries import current_state, ledger_violations, watch_rows
from deals.quotes import Quote
from deals.triggers import Triggers, close_reason
from workers import book, control, reconcile, sweep, system
from workers.audit import SYSTEM
from workers.book import Fired
from workers.prices import RedisQuoteBoard
from workers.receivers import arm_rows
from workers.tasks import close_deals

D = Decimal
ROUNDS = 12
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def domain_alone(the_system_runs: None) -> None:
    """Not here: the book and the queue take part."""
    system.refresh_state()
    reconcile.reconcile()


def quote_now() -> Quote:
    return RedisQuoteBoard().quote(BTC)


def opened(account: Account, **levels: str) -> Deal:
    """100 USDT × 10 `up` at the current price, armed."""
    deal = services.open_deal(
        user_id=account.user_id, symbol=BTC, direction="up", amount=D(100), multiplier=10, quote=quote_now(),
        **{name: D(level) for name, level in levels.items()},
    )  # fmt: skip
    assert in_book(deal.pk) != NOT_IN_BOOK
    return deal


def deliver(fired: Sequence[Fired]) -> int:
    """What a worker does with a message."""
    return close_deals([[item.deal_id, item.entry] for item in fired])


def tick_and_settle(price: str) -> int:
    return deliver(set_price(price=price))


def settle_what_waits() -> None:
    """The sweep and a worker come round until nothing is left to do."""
    arm_rows(watch_rows(Deal.objects.filter(monitoring="pending").values_list("pk", flat=True)))
    deliver(list(book.all_fired().values()))
    assert book.all_fired() == {}


def amend(deal: Deal, quote: Quote, take_profit: str) -> Deal:
    return services.amend_levels(user_id=deal.account.user_id, deal_id=deal.pk, quote=quote, take_profit=D(take_profit))


def require_whole(*deals: Deal) -> None:
    """Each deal is closed as one of its versions says, paid and told once; or open, and the book holds what it says."""
    assert ledger_violations() == []
    for deal in deals:
        deal.refresh_from_db()
        kinds = Counter(DealEvent.objects.filter(deal=deal).values_list("kind", flat=True))
        postings = LedgerEntry.objects.filter(deal=deal, kind="close").count()
        told = Notification.objects.filter(deal=deal, kind="deal_closed").count()
        closed = deal.status == "closed"
        assert (postings, told, kinds["closed"]) == ((1, 1, 1) if closed else (0, 0, 0))
        if not closed:
            armed = (None if deal.upper_trigger is None else float(deal.upper_trigger), None, str(deal.watch_version))
            assert in_book(deal.pk) == (armed if deal.monitoring == "armed" else NOT_IN_BOOK)
            assert deal.monitoring in {"armed", "removed", "expired"}
            continue
        assert in_book(deal.pk) == NOT_IN_BOOK
        by_levels = close_reason("up", Triggers(deal.upper_trigger, deal.lower_trigger), deal.close_price or D(0))
        assert deal.close_reason == ("manual" if deal.detector == "manual" else by_levels)
        last = DealEvent.objects.filter(deal=deal, kind="closed").get()
        assert (last.version, last.price, last.detector) == (deal.watch_version, deal.close_price, deal.detector)


def test_a_deal_that_its_user_two_workers_and_the_sweep_close_at_once_is_closed_by_one_of_them() -> None:
    account = new_account("100000")
    winners: Counter[str] = Counter()
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        set_price(price="100")
        deals = [opened(account, take_profit="110", stop_loss="90") for _ in range(9)]
        for deal in deals[:4]:
            lose_from_book(deal)
        fired = set_price(price="111")
        assert len(fired) == 5
        set_price(price="112")
        by_hand = rng.sample(deals, 4)
        outcomes = at_once(
            [
                partial(deliver, fired), partial(deliver, fired[::-1]), sweep.sweep, sweep.sweep,
                *(partial(services.close_deal, deal_id=deal.pk, quote=quote_now()) for deal in by_hand),
            ]
        )  # fmt: skip
        refused = errors_of(outcomes)
        assert all(isinstance(error, Conflict) and error.code == "deal_closed" for error in refused), refused
        settle_what_waits()
        require_whole(*deals)
        prices = {"tick": D(111), "sweep": D(112), "manual": D(112)}
        assert all(deal.close_price == prices[deal.detector or ""] for deal in deals)
        assert sum(deal.detector == "manual" for deal in deals) == len(by_hand) - len(refused)
        winners.update(deal.detector or "" for deal in deals)
    assert winners.keys() == {"tick", "sweep", "manual"}


@pytest.mark.parametrize("level", ["108", "120"])
def test_either_the_amended_level_or_the_old_one_closes_a_deal_that_fires_meanwhile(level: str) -> None:
    account = new_account("100000")
    for _ in range(ROUNDS):
        set_price(price="105")
        deal = opened(account, take_profit="110")
        outcome, closed = at_once([partial(amend, deal, quote_now(), level), partial(tick_and_settle, "111")])
        assert not isinstance(closed, Exception), closed
        settle_what_waits()
        require_whole(deal)
        if isinstance(outcome, Exception):
            assert isinstance(outcome, Conflict)
            assert (deal.watch_version, deal.take_profit, deal.close_price) == (1, D(110), D(111))
        else:
            assert (deal.watch_version, deal.take_profit) == (2, D(level))
            assert deal.close_price == (D(111) if level == "108" else None)  # 111 lies beyond 108, not beyond 120


def test_what_fired_at_a_level_that_is_amended_meanwhile_closes_at_it_or_not_at_all() -> None:
    """The price has come back before the amendment: 111 lies beyond the new level too, but was never seen since."""
    account = new_account("100000")
    for _ in range(ROUNDS):
        set_price(price="100")
        deal = opened(account, take_profit="110")
        fired = set_price(price="111")
        set_price(price="105")
        outcome, closed = at_once([partial(amend, deal, quote_now(), "108"), partial(deliver, fired)])
        assert not isinstance(closed, Exception), closed
        settle_what_waits()
        require_whole(deal)
        if isinstance(outcome, Exception):
            assert (deal.watch_version, deal.close_price) == (1, D(111))
        else:
            assert (deal.watch_version, deal.status) == (2, "open")


def test_either_a_deal_leaves_monitoring_or_closes_when_it_fires_meanwhile() -> None:
    account = new_account("100000")
    for _ in range(ROUNDS):
        set_price(price="105")
        deal = opened(account, take_profit="110")
        removed, closed = at_once(
            [partial(services.remove_from_monitoring, deal_id=deal.pk), partial(tick_and_settle, "111")]
        )
        assert not isinstance(closed, Exception), closed
        settle_what_waits()
        require_whole(deal)
        kinds = set(Notification.objects.filter(deal=deal).values_list("kind", flat=True))
        if isinstance(removed, Exception):
            assert isinstance(removed, Conflict)
            assert (deal.status, deal.watch_version, kinds) == ("closed", 1, {"deal_closed"})
        else:
            assert (deal.status, deal.monitoring, kinds) == ("open", "removed", {"monitoring_removed"})


def test_what_opens_beside_an_emergency_stop_is_whole_or_was_refused() -> None:
    accounts = [new_account("100000") for _ in range(3)]
    for _ in range(ROUNDS):
        before = Deal.objects.count()
        set_price(price="100")
        opening = [partial(opened, accounts[n % 3], take_profit="110") for n in range(8)]
        *outcomes, _stopped = at_once([*opening, partial(control.emergency_stop, "test", SYSTEM)])
        answered = [outcome for outcome in outcomes if isinstance(outcome, Deal)]
        refused = errors_of(outcomes)
        assert all(isinstance(error, Unavailable | OperationalError) for error in refused), refused
        assert current_state().state == "halted"
        assert Deal.objects.count() == before + len(answered)
        with pytest.raises(Unavailable):
            opened(accounts[0], take_profit="110")
        assert deliver(set_price(price="111")) == 0
        assert Deal.objects.filter(status="closed").count() == 0
        assert system.resume("test")
        require_whole(*answered)


Step = Callable[[], Any]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_to_the_same_deals_at_once_each_ends_whole(seed: int) -> None:
    rng = random.Random(seed)
    accounts = [new_account("100000") for _ in range(3)]
    for _ in range(5):
        set_price(price="100")
        deals = [opened(rng.choice(accounts), take_profit=str(rng.randint(104, 112))) for _ in range(8)]
        fired = [] if rng.random() < 0.3 else set_price(price="106")
        quote = quote_now()
        steps: list[Step] = [
            partial(rng.choice(STEPS), rng.choice(deals), quote, str(rng.randint(107, 115))) for _ in range(14)
        ]
        ticks = [str(rng.randint(95, 113)) for _ in range(4)]
        steps += [partial(one_after_the_other, ticks), partial(deliver, fired), partial(deliver, fired), sweep.sweep]
        rng.shuffle(steps)
        errors = errors_of(at_once(steps))
        assert all(isinstance(error, DealError) for error in errors), errors
        settle_what_waits()
        sweep.sweep()
        settle_what_waits()
        require_whole(*deals)
        for deal in deals:
            if deal.status == "open":
                services.close_deal(deal_id=deal.pk, quote=quote_now())
        require_whole(*deals)


def one_after_the_other(prices: list[str]) -> None:
    """One prices process: its ticks are in order."""
    for price in prices:
        tick_and_settle(price)


STEPS: list[Callable[[Deal, Quote, str], Any]] = [
    amend,
    lambda deal, _quote, _level: services.remove_from_monitoring(deal_id=deal.pk),
    lambda deal, quote, _level: services.add_to_monitoring(deal_id=deal.pk, quote=quote),
    lambda deal, quote, _level: services.close_deal(deal_id=deal.pk, quote=quote),
    lambda deal, _quote, _level: arm_rows(watch_rows([deal.pk])),
    lambda _deal, _quote, _level: reconcile.rebuild(),
]
