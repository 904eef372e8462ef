"""The only place that maps levels to triggers and a crossed trigger to its close reason. Pure.

A deal has an upper and a lower trigger, either of them None. For `up`, Take Profit is the upper one and Stop Loss the
lower; for `down`, the other way round. A later kind of exit (liquidation, trailing stop, ladder) is a new way
to compute these two numbers, never a new path.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, NamedTuple

Direction = Literal["up", "down"]
CloseReason = Literal["take_profit", "stop_loss"]
Side = Literal["upper", "lower"]


class Levels(NamedTuple):
    """What a user sets: prices, either of them None."""

    take_profit: Decimal | None
    stop_loss: Decimal | None

    @property
    def any(self) -> bool:
        """Whether there is anything to watch."""
        return self.take_profit is not None or self.stop_loss is not None


class Triggers(NamedTuple):
    """What the book and the sweep see: price ≥ upper or price ≤ lower fires."""

    upper: Decimal | None
    lower: Decimal | None


class LevelError(ValueError):
    """A level is on the wrong side of the price. `field` names the level, `code` the kind of error."""

    def __init__(self, field: Literal["take_profit", "stop_loss"], code: str, message: str) -> None:
        super().__init__(message)
        self.field: Literal["take_profit", "stop_loss"] = field
        self.code = code


def triggers_of(direction: Direction, levels: Levels) -> Triggers:
    """The triggers that stand for a deal's levels."""
    if direction == "up":
        return Triggers(upper=levels.take_profit, lower=levels.stop_loss)
    return Triggers(upper=levels.stop_loss, lower=levels.take_profit)


def check_levels(direction: Direction, levels: Levels, price: Decimal) -> None:
    """Raise LevelError unless each level lies strictly on its own side of the current price."""
    if levels.take_profit is not None and levels.take_profit == levels.stop_loss:
        raise LevelError("stop_loss", "levels_equal", "Take Profit and Stop Loss must differ.")
    triggers = triggers_of(direction, levels)
    if triggers.upper is not None and triggers.upper <= price:
        raise _wrong_side("upper", direction, triggers.upper, price)
    if triggers.lower is not None and triggers.lower >= price:
        raise _wrong_side("lower", direction, triggers.lower, price)


def crossed_sides(triggers: Triggers, price: Decimal) -> frozenset[Side]:
    """The triggers that a price has reached; reaching is inclusive."""
    sides: tuple[Side, Side] = ("upper", "lower")
    return frozenset(side for side, reached in zip(sides, _reached(triggers, price), strict=True) if reached)


def close_reason(direction: Direction, triggers: Triggers, price: Decimal) -> CloseReason | None:
    """Why a price closes a deal, or None when it does not. When both triggers are reached, Stop Loss wins."""
    above, below = _reached(triggers, price)
    if below if direction == "up" else above:
        return "stop_loss"
    return "take_profit" if above or below else None


def sweep_price(triggers: Triggers, low: Decimal, high: Decimal, last: Decimal, direction: Direction) -> Decimal | None:
    """The price at which a deal closes that was found afterwards, or None when the range [low, high] crossed nothing.

    The last price if it still lies beyond a trigger; else the trigger itself, for the market traded through
    it. When the range reached both, Stop Loss wins.
    """
    if any(_reached(triggers, last)):
        return last
    stop, take = (triggers.lower, triggers.upper) if direction == "up" else (triggers.upper, triggers.lower)
    for trigger in (stop, take):
        if trigger is None:
            continue
        reached = high >= trigger if trigger == triggers.upper else low <= trigger
        if reached:
            return trigger
    return None


def _reached(triggers: Triggers, price: Decimal) -> tuple[bool, bool]:
    """Whether a price has reached the upper and the lower one."""
    return (
        triggers.upper is not None and price >= triggers.upper,
        triggers.lower is not None and price <= triggers.lower,
    )


def _wrong_side(side: Side, direction: Direction, level: Decimal, price: Decimal) -> LevelError:
    is_stop = side == ("lower" if direction == "up" else "upper")
    field: Literal["take_profit", "stop_loss"] = "stop_loss" if is_stop else "take_profit"
    name = "Stop Loss" if is_stop else "Take Profit"
    where = "above" if side == "upper" else "below"
    return LevelError(
        field,
        "level_on_wrong_side",
        f"{name} of a deal `{direction}` must lie {where} the current price {price:f}, but is {level:f}.",
    )
