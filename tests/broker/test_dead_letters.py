"""What an operator does with a deal that could not be settled: put it back, give it up; or it resolves by itself."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import DataError
from domain import new_account
from market import Market
from servers import wait_until

from deals import services, state
from deals.errors import Conflict, NotFound, Unavailable
from deals.models import Account, Deal, Monitoring
from deals.settlement import Failure
from workers import book, dead_letters, keys, sweep, system
from workers.audit import Actor
from workers.dispatch import send_closures
from workers.models import AuditEntry, DeadLetter
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.tasks import close_deals, housekeeping

BOSS = Actor("boss", "10.0.0.1")


def dead_deal(market: Market, price: str = "111") -> tuple[Deal, DeadLetter]:
    """A deal that fired and could not be settled."""
    market.tick("100")
    deal = market.open(new_account(), take_profit="110")
    [fired] = market.tick(price)
    failure = Failure(fired.due(), DataError("numeric field overflow"))
    assert dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
    book.clear_fired([(deal.pk, fired.version)])
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.DEAD
    return deal, DeadLetter.objects.get(deal=deal)


def settle_fired() -> int:
    return int(close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()]))


def test_a_requeued_deal_closes_at_the_price_that_fired_and_its_letter_is_resolved(market: Market) -> None:
    deal, letter = dead_deal(market)
    market.tick("90")
    requeued = dead_letters.requeue(letter.pk, BOSS, "the overflow is mended")
    assert requeued.state == "requeued"
    deal.refresh_from_db()
    assert (deal.monitoring, deal.watch_version) == (Monitoring.PENDING, 3)
    assert [(item.version, item.price) for item in book.all_fired().values()] == [(3, "111")]
    assert sweep.sweep(clock=market.clock).found == 0
    assert settle_fired() == 1
    deal.refresh_from_db()
    letter.refresh_from_db()
    assert (deal.status, deal.close_price, letter.state) == ("closed", Decimal(111), "resolved")
    [entry] = AuditEntry.objects.all()
    assert (entry.who, entry.action, entry.target) == (
        "boss", "dead_letter.requeue", f"dead letter {letter.pk}, deal {deal.pk}",
    )  # fmt: skip
    assert dead_letters.requeue(letter.pk, BOSS).state == "resolved"


def test_requeueing_twice_changes_nothing(market: Market) -> None:
    _deal, letter = dead_deal(market)
    dead_letters.requeue(letter.pk, BOSS)
    before = book.all_fired()
    assert dead_letters.requeue(letter.pk, BOSS).state == "requeued"
    assert book.all_fired() == before
    assert AuditEntry.objects.count() == 1


def test_the_message_of_a_requeued_deal_reaches_a_real_worker(market: Market, celery_worker: Any) -> None:
    deal, letter = dead_deal(market)
    celery_worker()
    dead_letters.requeue(letter.pk, BOSS)
    wait_until(lambda: Deal.objects.get(pk=deal.pk).status == "closed", 20)
    wait_until(lambda: DeadLetter.objects.get().state == "resolved", 20)


def test_a_deal_that_fails_again_is_the_same_letter_again(market: Market) -> None:
    deal, letter = dead_deal(market)
    dead_letters.requeue(letter.pk, BOSS)
    [fired] = book.all_fired().values()
    failure = Failure(fired.due(), DataError("still too large"))
    for _ in range(2):  # the same message delivered twice
        dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
    again = DeadLetter.objects.get()
    assert (again.pk, again.state, again.attempts, again.error) == (letter.pk, "failed", 6, "still too large")
    assert again.first_failed_at == letter.first_failed_at < again.last_failed_at
    deal.refresh_from_db()
    assert (deal.monitoring, deal.watch_version) == (Monitoring.DEAD, 4)
    book.clear_fired([(deal.pk, 3)])
    dead_letters.requeue(letter.pk, BOSS)
    assert settle_fired() == 1


def test_a_deal_that_was_closed_by_hand_resolves_its_letter(market: Market) -> None:
    deal, letter = dead_deal(market)
    services.close_deal(deal_id=deal.pk, quote=RedisQuoteBoard(market.clock).quote(deal.symbol))
    letter.refresh_from_db()
    assert letter.state == "resolved"
    assert dead_letters.requeue(letter.pk, BOSS).state == "resolved"
    assert book.all_fired() == {}
    assert dead_letters.discard(letter.pk, BOSS).state == "resolved"
    assert not AuditEntry.objects.exists()


def test_a_deal_that_is_watched_anew_resolves_its_letter(market: Market) -> None:
    deal, letter = dead_deal(market)
    services.add_to_monitoring(deal_id=deal.pk, quote=RedisQuoteBoard(market.clock).quote(deal.symbol))
    letter.refresh_from_db()
    assert letter.state == "resolved"


def test_a_requeued_deal_that_was_amended_before_it_closed_stays_open_at_its_new_levels(market: Market) -> None:
    deal, letter = dead_deal(market)
    market.tick("100")
    dead_letters.requeue(letter.pk, BOSS)
    market.amend(deal, take_profit="150")
    assert settle_fired() == 0
    deal.refresh_from_db()
    letter.refresh_from_db()
    assert (deal.status, deal.monitoring, letter.state) == ("open", Monitoring.ARMED, "resolved")


def test_discarding_takes_the_deal_out_of_monitoring_and_tells_its_user(market: Market) -> None:
    deal, letter = dead_deal(market)
    for _ in range(2):
        assert dead_letters.discard(letter.pk, BOSS, "a joke account").state == "discarded"
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring) == ("open", Monitoring.REMOVED)
    assert deal.notifications.filter(kind="monitoring_removed").count() == 1
    assert AuditEntry.objects.get().reason == "a joke account"
    with pytest.raises(Conflict, match="discarded"):
        dead_letters.requeue(letter.pk, BOSS, "a second thought")
    refused = AuditEntry.objects.order_by("pk")[1]
    assert (refused.action, refused.reason, refused.outcome) == (
        "dead_letter.requeue", "a second thought", "letter_discarded",
    )  # fmt: skip


def test_a_requeued_letter_cannot_be_discarded(market: Market) -> None:
    _deal, letter = dead_deal(market)
    dead_letters.requeue(letter.pk, BOSS)
    with pytest.raises(Conflict) as refused:
        dead_letters.discard(letter.pk, BOSS)
    assert refused.value.code == "letter_requeued"


def test_nothing_is_requeued_while_the_system_does_not_run(market: Market) -> None:
    deal, letter = dead_deal(market)
    state.change(state.State.STOPPED, "test")
    with pytest.raises(Unavailable, match="stopped"):
        dead_letters.requeue(letter.pk, BOSS)
    state.change(state.State.RUNNING, "test")
    connect().delete(keys.state())  # Redis lost it
    with pytest.raises(Unavailable, match="Redis"):
        dead_letters.requeue(letter.pk, BOSS)
    deal.refresh_from_db()
    letter.refresh_from_db()
    assert (deal.monitoring, deal.watch_version, letter.state, letter.version) == (Monitoring.DEAD, 2, "failed", 1)
    assert book.all_fired() == {}
    system.refresh_state()
    assert dead_letters.requeue(letter.pk, BOSS).state == "requeued"


def test_a_redis_that_is_away_leaves_everything_as_it_was(market: Market, settings: Any) -> None:
    deal, letter = dead_deal(market)
    url = settings.REDIS_URL
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    connect.cache_clear()
    with pytest.raises(Unavailable) as refused:
        dead_letters.requeue(letter.pk, BOSS)
    settings.REDIS_URL = url
    connect.cache_clear()
    assert refused.value.code == "redis_unavailable"
    deal.refresh_from_db()
    assert (deal.monitoring, DeadLetter.objects.get().state) == (Monitoring.DEAD, "failed")


def test_an_entry_whose_transaction_was_lost_closes_nothing(market: Market) -> None:
    deal, _letter = dead_deal(market)
    stray = book.Fired.parse(deal.pk, DeadLetter.objects.get().fired)._replace(version=3)
    book.fire_found([stray], now_ms=market.clock.now_ms())
    assert settle_fired() == 0
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring, book.all_fired()) == ("open", Monitoring.DEAD, {})


def test_there_is_no_such_letter(market: Market) -> None:
    with pytest.raises(NotFound):
        dead_letters.requeue(10**9, BOSS)


def test_a_poisoned_account_that_is_mended_gets_its_money_after_all(market: Market, celery_worker: Any) -> None:
    market.tick("100")
    trader = new_account()
    Account.objects.filter(pk=trader.pk).update(total_volume=Decimal("9" * 22))  # its statistics overflow
    market.open(trader, take_profit="110")
    celery_worker()
    send_closures(market.tick("111"))
    wait_until(lambda: DeadLetter.objects.filter(state="failed").exists(), 30)
    wait_until(lambda: book.all_fired() == {}, 20)
    Account.objects.filter(pk=trader.pk).update(total_volume=0)
    dead_letters.requeue(DeadLetter.objects.get().pk, BOSS, "mended")
    wait_until(lambda: Deal.objects.get().status == "closed", 20)
    wait_until(lambda: DeadLetter.objects.get().state == "resolved", 20)
    trader.refresh_from_db()
    assert trader.balance == Decimal("10109.5")  # 1000 × 11 ÷ 100 − 0.5


def test_housekeeping_resolves_what_was_missed(market: Market) -> None:
    _deal, letter = dead_deal(market)
    Deal.objects.update(monitoring="removed")
    housekeeping()
    letter.refresh_from_db()
    assert letter.state == "resolved"
