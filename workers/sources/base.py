"""What a price source is. A source reads and yields; it judges no price, writes nothing and knows no deal."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol


class Tick(NamedTuple):
    """One price as a source received it, not yet checked: the price board decides whether it counts.

    price   text exactly as received (it may be garbage)
    at_ms   exchange time, milliseconds since 1970 UTC
    trade_id  the exchange's number of the trade, rising within one source and symbol; None where it has none
    """

    symbol: str
    price: str
    at_ms: int
    trade_id: int | None = None


class PriceSource(Protocol):
    """An endless (a tape: finite) stream of ticks. It reconnects by itself; cancelling the iteration closes it."""

    name: str
    heartbeat: Heartbeat

    def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield ticks in the order received."""
        ...


class Heartbeat:
    """When the source last heard anything at all from its feed, on the monotonic clock; and why it is silent."""

    def __init__(self) -> None:
        self.last_s: float | None = None
        self.trouble: str | None = None

    def beat(self) -> None:
        """Note that the feed just spoke."""
        self.last_s = time.monotonic()
        self.trouble = None

    def fail(self, reason: str) -> None:
        """Note why the feed is away."""
        self.trouble = reason

    def age_s(self) -> float | None:
        """Seconds since the feed last spoke; None before it first did."""
        return None if self.last_s is None else time.monotonic() - self.last_s
