"""Levels, triggers and close reasons: the tables of the rule, and what holds for every price."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deals.triggers import (
    Direction,
    LevelError,
    Levels,
    Triggers,
    check_levels,
    close_reason,
    crossed_sides,
    sweep_price,
    triggers_of,
)

D = Decimal
prices = st.integers(1, 40).map(lambda units: D(units) / 4)
"""So few that they often are equal: equality is where the rules differ."""
levels = st.builds(Levels, st.none() | prices, st.none() | prices)
directions = st.sampled_from(["up", "down"])


def maybe(text: str | None) -> Decimal | None:
    return None if text is None else D(text)


def test_take_profit_is_the_upper_trigger_of_up_and_the_lower_one_of_down() -> None:
    assert triggers_of("up", Levels(D(110), D(90))) == Triggers(upper=D(110), lower=D(90))
    assert triggers_of("down", Levels(D(90), D(110))) == Triggers(upper=D(110), lower=D(90))
    assert triggers_of("up", Levels(None, D(90))) == Triggers(upper=None, lower=D(90))
    assert triggers_of("down", Levels(None, D(110))) == Triggers(upper=D(110), lower=None)
    assert triggers_of("down", Levels(None, None)) == Triggers(None, None)


@pytest.mark.parametrize(
    ("direction", "price", "reason"),
    [
        ("up", "109.99", None),
        ("up", "110", "take_profit"),  # reaching is enough
        ("up", "110.01", "take_profit"),
        ("up", "90.01", None),
        ("up", "90", "stop_loss"),
        ("up", "89.99", "stop_loss"),
        ("down", "109.99", None),
        ("down", "110", "stop_loss"),
        ("down", "110.01", "stop_loss"),
        ("down", "90.01", None),
        ("down", "90", "take_profit"),
        ("down", "89.99", "take_profit"),
    ],
)
def test_the_reason_follows_from_the_side_that_is_reached(direction: Direction, price: str, reason: str | None) -> None:
    assert close_reason(direction, Triggers(upper=D(110), lower=D(90)), D(price)) == reason


@pytest.mark.parametrize("direction", ["up", "down"])
def test_stop_loss_wins_when_one_price_reaches_both(direction: Direction) -> None:
    # No allowed deal has its upper trigger below the lower one; the rule must not depend on it.
    both = Triggers(upper=D(100), lower=D(100))
    assert crossed_sides(both, D(100)) == {"upper", "lower"}
    assert close_reason(direction, both, D(100)) == "stop_loss"


def test_a_deal_without_triggers_never_closes() -> None:
    assert close_reason("up", Triggers(None, None), D("0.000000000001")) is None
    assert crossed_sides(Triggers(None, None), D(999_999_999_999)) == frozenset()


@pytest.mark.parametrize(
    ("direction", "take_profit", "stop_loss", "field"),
    [
        ("up", "100", None, "take_profit"),  # equal to the price
        ("up", "99.99", None, "take_profit"),
        ("up", None, "100", "stop_loss"),
        ("up", None, "100.01", "stop_loss"),
        ("up", "90", "110", "take_profit"),  # exchanged
        ("down", "100", None, "take_profit"),
        ("down", "100.01", None, "take_profit"),
        ("down", None, "100", "stop_loss"),
        ("down", None, "99.99", "stop_loss"),
        ("down", "110", "90", "stop_loss"),
    ],
)
def test_a_level_on_the_wrong_side_or_equal_to_the_price_is_refused(
    direction: Direction, take_profit: str | None, stop_loss: str | None, field: str
) -> None:
    with pytest.raises(LevelError) as refused:
        check_levels(direction, Levels(maybe(take_profit), maybe(stop_loss)), D(100))
    assert refused.value.code == "level_on_wrong_side"
    assert refused.value.field == field
    assert "100" in str(refused.value)


@pytest.mark.parametrize(
    ("direction", "side", "word"),
    [
        ("up", Levels(D(99), None), "above"),
        ("down", Levels(None, D(99)), "above"),
        ("down", Levels(D(101), None), "below"),
    ],
)
def test_the_refusal_says_where_the_level_must_lie(direction: Direction, side: Levels, word: str) -> None:
    with pytest.raises(LevelError, match=f"must lie {word} the current price 100, but is"):
        check_levels(direction, side, D(100))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_equal_levels_are_refused_as_such(direction: Direction) -> None:
    with pytest.raises(LevelError) as refused:
        check_levels(direction, Levels(D(110), D("110.00")), D(100))
    assert (refused.value.code, refused.value.field) == ("levels_equal", "stop_loss")


@given(directions, levels, prices)
def test_levels_are_accepted_exactly_when_the_price_closes_nothing_and_they_enclose_it(
    direction: Direction, wanted: Levels, price: Decimal
) -> None:
    upper, lower = triggers_of(direction, wanted)
    encloses = (upper is None or upper > price) and (lower is None or lower < price)
    try:
        check_levels(direction, wanted, price)
        accepted = True
    except LevelError:
        accepted = False
    assert accepted == encloses
    if accepted:
        assert close_reason(direction, Triggers(upper, lower), price) is None


@given(directions, levels, prices)
def test_a_price_closes_exactly_when_a_trigger_is_reached(direction: Direction, wanted: Levels, price: Decimal) -> None:
    take_profit, stop_loss = wanted
    sign = 1 if direction == "up" else -1
    stopped = stop_loss is not None and sign * price <= sign * stop_loss
    taken = take_profit is not None and sign * price >= sign * take_profit
    expected = "stop_loss" if stopped else "take_profit" if taken else None
    assert close_reason(direction, triggers_of(direction, wanted), price) == expected


@given(levels, prices)
def test_up_and_down_with_exchanged_levels_have_the_same_triggers(wanted: Levels, price: Decimal) -> None:
    exchanged = Levels(wanted.stop_loss, wanted.take_profit)
    assert triggers_of("up", wanted) == triggers_of("down", exchanged)


@pytest.mark.parametrize(
    ("low", "high", "last", "price"),
    [
        ("95", "105", "100", None),  # nothing was reached
        ("95", "110", "110", "110"),
        ("95", "115", "112", "112"),  # still beyond: the last price, gap and all
        ("95", "115", "100", "110"),  # came back: the market traded through the trigger
        ("85", "105", "100", "90"),
        ("85", "115", "100", "90"),  # both: Stop Loss of an `up`
        ("85", "115", "111", "111"),  # both, and the last price is beyond one
    ],
)
def test_what_the_sweep_finds_closes_at_the_last_price_or_at_the_trigger(
    low: str, high: str, last: str, price: str | None
) -> None:
    triggers = Triggers(upper=D(110), lower=D(90))
    assert sweep_price(triggers, D(low), D(high), D(last), "up") == maybe(price)


def test_the_sweep_prefers_the_stop_loss_of_down_too() -> None:
    assert sweep_price(Triggers(upper=D(110), lower=D(90)), D(85), D(115), D(100), "down") == D(110)


@given(directions, levels, prices, prices, prices)
def test_a_price_the_sweep_finds_always_closes_the_deal(
    direction: Direction, wanted: Levels, one: Decimal, other: Decimal, last: Decimal
) -> None:
    triggers = triggers_of(direction, wanted)
    if triggers.upper is not None and triggers.lower is not None and triggers.upper <= triggers.lower:
        return  # no such deal: check_levels and the database refuse it
    low, high = min(one, other, last), max(one, other, last)
    price = sweep_price(triggers, low, high, last, direction)
    reached = any(crossed_sides(triggers, at) for at in (low, high))
    assert (price is not None) == reached
    if price is not None:
        assert close_reason(direction, triggers, price) is not None
        assert low <= price <= high
