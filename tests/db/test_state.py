"""The system state: what stopped and halted refuse, and the emergency stop."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from domain import due, new_account, opened, quote

from deals import services, state
from deals.errors import Unavailable
from deals.models import Account, Deal, SystemState
from deals.queries import current_state
from deals.settlement import settle
from deals.sql import statement

State = state.State
pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


@pytest.fixture
def deal(account: Account) -> Deal:
    return opened(account, take_profit="110")


ACTIONS: dict[str, Callable[[Deal], Any]] = {
    "open": lambda deal: opened(deal.account),
    "amend": lambda deal: services.amend_levels(
        user_id=deal.account.user_id, deal_id=deal.pk, quote=quote(), take_profit=Decimal(120)
    ),
    "arm": lambda deal: services.add_to_monitoring(deal_id=deal.pk, quote=quote()),
    "settle": lambda deal: settle([due(deal, "110")]),
    "close by hand": lambda deal: services.close_deal(deal_id=deal.pk, quote=quote()),
    "disarm": lambda deal: services.remove_from_monitoring(deal_id=deal.pk),
}
ALLOWED = {
    State.RUNNING: set(ACTIONS),
    # In flight finishes and users may get out; nothing new is watched.
    State.DRAINING: {"settle", "close by hand", "disarm"},
    State.STOPPED: {"settle", "close by hand", "disarm"},
    # Nothing settles.
    State.HALTED: {"disarm"},
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("now", State.values)
def test_each_state_allows_what_the_table_says_and_a_refusal_changes_nothing(deal: Deal, now: str, action: str) -> None:
    state.change(State(now), "test")
    before = list(Deal.objects.values()), list(Account.objects.values())
    if action in ALLOWED[State(now)]:
        ACTIONS[action](deal)
        return
    with pytest.raises(Unavailable) as refused:
        ACTIONS[action](deal)
    assert refused.value.code == "system_not_running"
    assert now in refused.value.message
    assert (list(Deal.objects.values()), list(Account.objects.values())) == before


def test_without_the_row_of_the_state_nothing_opens_or_closes(deal: Deal) -> None:
    SystemState.objects.all().delete()
    for action in ("open", "settle", "close by hand"):
        with pytest.raises(Unavailable, match="missing"):
            ACTIONS[action](deal)


def test_a_change_raises_the_version_and_keeps_the_reason() -> None:
    before = current_state()
    assert state.change(State.STOPPED, "maintenance")
    row = SystemState.objects.get()
    assert (row.state, row.version, row.reason) == ("stopped", before.version + 1, "maintenance")


def test_a_change_to_the_same_state_is_none() -> None:
    before = SystemState.objects.values().get()
    assert not state.change(State.RUNNING, "again")
    assert SystemState.objects.values().get() == before


def test_an_emergency_stop_halts_and_so_does_a_second_one(deal: Deal) -> None:
    state.halt("test")
    state.halt("again")
    assert current_state().state == "halted"
    assert SystemState.objects.get().reason == "test"
    with pytest.raises(Unavailable):
        settle([due(deal, "110")])


def test_closers_and_the_emergency_stop_take_the_same_lock() -> None:
    assert re.findall(r"lock_shared\((\d+)\)", statement("hold_stop_lock")) == [str(state.STOP_LOCK)]
