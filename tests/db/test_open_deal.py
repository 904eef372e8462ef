"""Opening a deal: what it writes, what it refuses, and that repeating a request opens nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from domain import NOON, due, new_account, opened, quote

from deals import services
from deals.errors import Conflict, DealError, NotFound, Unavailable
from deals.models import Account, Deal, DealEvent, LedgerEntry, Notification
from deals.settlement import settle
from deals.signals import deal_changed

D = Decimal
pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


def terms(account: Account, **changed: Any) -> dict[str, Any]:
    return {
        "user_id": account.user_id,
        "symbol": "BTCUSDT",
        "direction": "up",
        "amount": D(100),
        "multiplier": 10,
        "quote": quote("100"),
        **changed,
    }


def test_opening_locks_the_amount_posts_it_and_waits_to_be_armed(account: Account) -> None:
    deal = services.open_deal(
        **terms(account, quote=quote("100.5", seq=77)),
        take_profit=D(110),
        stop_loss=D(90),
        now=NOON + timedelta(seconds=1),
    )
    account.refresh_from_db()
    deal.refresh_from_db()
    assert (account.balance, account.margin) == (D(9900), D(100))
    assert (deal.open_price, deal.upper_trigger, deal.lower_trigger) == (D("100.5"), D(110), D(90))
    assert (deal.status, deal.monitoring, deal.watch_version) == ("open", "pending", 1)
    assert (deal.watched_from_seq, deal.watched_from_at) == (77, NOON)
    assert deal.watch_expires_at == NOON + timedelta(hours=24, seconds=1)
    assert [(entry.kind, entry.amount) for entry in deal.ledger.all()] == [("open", D(-100))]
    assert [(event.kind, event.version, event.price) for event in deal.events.all()] == [("opened", 1, D("100.5"))]
    assert not Notification.objects.exists()


def test_a_deal_down_has_its_triggers_the_other_way_round(account: Account) -> None:
    deal = opened(account, direction="down", take_profit="90", stop_loss="110")
    assert (deal.upper_trigger, deal.lower_trigger) == (D(110), D(90))


def test_a_deal_without_levels_is_not_monitored(account: Account) -> None:
    deal = opened(account)
    assert (deal.monitoring, deal.watch_expires_at) == ("none", None)
    assert (deal.upper_trigger, deal.lower_trigger) == (None, None)


def test_the_whole_free_balance_may_be_locked_but_not_a_unit_more(account: Account) -> None:
    opened(account, amount="9999.99999999")
    with pytest.raises(DealError) as refused:
        opened(account, amount="0.00000002")
    assert (refused.value.code, refused.value.field) == ("insufficient_balance", "amount")
    opened(account, amount="0.00000001")
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(0), D(10_000))


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"amount": D(0)}, "invalid_amount", "amount"),
        ({"amount": D(-1)}, "invalid_amount", "amount"),
        ({"amount": D("0.000000001")}, "invalid_amount", "amount"),
        ({"amount": D("NaN")}, "invalid_amount", "amount"),
        ({"amount": D("Infinity")}, "invalid_amount", "amount"),
        ({"amount": D("1E+12")}, "invalid_amount", "amount"),
        ({"amount": D("10000.00000001")}, "insufficient_balance", "amount"),
        ({"multiplier": 0}, "invalid_multiplier", "multiplier"),
        ({"multiplier": 101}, "invalid_multiplier", "multiplier"),
        ({"direction": "sideways"}, "invalid_direction", "direction"),
        ({"symbol": "ETHUSDT"}, "unknown_symbol", "symbol"),
        ({"take_profit": D(100)}, "level_on_wrong_side", "take_profit"),
        ({"take_profit": D("99.99")}, "level_on_wrong_side", "take_profit"),
        ({"stop_loss": D("100.01")}, "level_on_wrong_side", "stop_loss"),
        ({"direction": "down", "take_profit": D(101)}, "level_on_wrong_side", "take_profit"),
        ({"direction": "down", "stop_loss": D(99)}, "level_on_wrong_side", "stop_loss"),
        ({"take_profit": D(110), "stop_loss": D(110)}, "levels_equal", "stop_loss"),
        ({"take_profit": D("NaN")}, "invalid_level", "take_profit"),
        ({"take_profit": D("Infinity")}, "invalid_level", "take_profit"),
        ({"stop_loss": D(0)}, "invalid_level", "stop_loss"),
        ({"stop_loss": D(-5)}, "invalid_level", "stop_loss"),
        ({"take_profit": D("110.0000000000001")}, "invalid_level", "take_profit"),
        ({"take_profit": D("1234567890.1234567")}, "invalid_level", "take_profit"),
    ],
)
def test_bad_terms_are_refused_with_code_and_field_and_change_nothing(
    account: Account, changed: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(DealError) as refused:
        services.open_deal(**terms(account, **changed))
    assert (refused.value.code, refused.value.field) == (code, field)
    assert refused.value.message.endswith(".")
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(10_000), D(0))
    assert not Deal.objects.exists()
    assert not DealEvent.objects.exists()
    assert LedgerEntry.objects.count() == 1  # the funding


def test_a_user_without_account_opens_nothing() -> None:
    with pytest.raises(NotFound):
        services.open_deal(**{**terms(new_account()), "user_id": 0})


def test_zeros_at_the_end_are_not_precision(account: Account) -> None:
    deal = opened(account, amount="100.000000000000", take_profit="110.00000000000000")
    deal.refresh_from_db()
    assert (deal.amount, deal.take_profit) == (D(100), D(110))


class TestAClientId:
    def test_a_repeat_returns_the_deal_opened_then_and_changes_nothing(self, account: Account) -> None:
        first = opened(account, client_id="a", take_profit="110")
        again = opened(account, client_id="a", take_profit="110", price="101", seq=2)
        assert again.pk == first.pk
        assert again.open_price == D(100)
        account.refresh_from_db()
        assert (account.balance, account.margin) == (D(9900), D(100))
        assert first.events.count() == first.ledger.count() == 1

    def test_a_repeat_is_a_repeat_even_if_the_price_has_crossed_the_levels_since(self, account: Account) -> None:
        first = opened(account, client_id="a", take_profit="110", stop_loss="90")
        for price in ("110", "120", "90", "80"):
            assert opened(account, client_id="a", take_profit="110", stop_loss="90", price=price).pk == first.pk

    def test_a_repeat_needs_no_balance(self, account: Account) -> None:
        first = opened(account, client_id="a", amount="10000")
        assert opened(account, client_id="a", amount="10000").pk == first.pk

    def test_a_repeat_after_the_closure_returns_the_closed_deal(self, account: Account) -> None:
        first = opened(account, client_id="a", take_profit="110")
        settle([due(first, "110")])
        assert opened(account, client_id="a", take_profit="110").status == "closed"
        assert Deal.objects.count() == 1

    @pytest.mark.parametrize(
        "changed", [{"amount": "99"}, {"multiplier": 11}, {"direction": "down"}, {"symbol": "ETHUSDT"}]
    )
    def test_with_other_terms_it_is_refused(self, account: Account, changed: dict[str, Any]) -> None:
        opened(account, client_id="a")
        with pytest.raises(Conflict) as refused:
            opened(account, client_id="a", **changed)
        assert (refused.value.code, refused.value.field) == ("client_id_reused", "client_id")
        assert Deal.objects.count() == 1

    def test_a_repeat_is_known_without_a_price(self, account: Account) -> None:
        terms = {"symbol": "BTCUSDT", "direction": "up", "amount": D(100), "multiplier": 10}
        assert services.opened_earlier(user_id=account.user_id, client_id="a", **terms) is None
        first = opened(account, client_id="a")
        assert services.opened_earlier(user_id=account.user_id, client_id="a", **terms) == first
        assert services.opened_earlier(user_id=account.user_id, client_id=None, **terms) is None
        assert services.opened_earlier(user_id=new_account().user_id, client_id="a", **terms) is None
        with pytest.raises(Conflict):
            services.opened_earlier(user_id=account.user_id, client_id="a", **{**terms, "amount": D(99)})

    def test_belongs_to_one_user(self, account: Account) -> None:
        assert opened(account, client_id="a").pk != opened(new_account(), client_id="a").pk

    def test_without_one_every_request_opens_a_deal(self, account: Account) -> None:
        assert opened(account).pk != opened(account).pk


def test_an_account_is_funded_once(account: Account) -> None:
    again = services.create_account(account.user_id, balance=D(5))
    assert again.pk == account.pk
    assert again.balance == D(10_000)
    assert [(entry.kind, entry.amount) for entry in account.ledger.all()] == [("funding", D(10_000))]


def test_a_new_account_begins_with_10_000(django_user_model: Any) -> None:
    user = django_user_model.objects.create(username="new")
    assert services.create_account(user.pk).balance == D(10_000)


def test_the_signal_is_sent_after_the_commit_and_not_for_what_was_refused(
    account: Account, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    heard: list[int] = []

    def hear(ids: list[int], **_signal: Any) -> None:
        heard.extend(ids)

    deal_changed.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            deal = opened(account, take_profit="110")
            assert heard == []
        with pytest.raises(DealError), django_capture_on_commit_callbacks(execute=True):
            opened(account, take_profit="90")
    finally:
        deal_changed.disconnect(hear)
    assert heard == [deal.pk]


def test_nothing_is_written_when_the_system_does_not_run(account: Account) -> None:
    from deals import state

    state.change(state.State.STOPPED, "test")
    with pytest.raises(Unavailable):
        opened(account)
    assert not Deal.objects.exists()
