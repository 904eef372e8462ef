"""What was answered over REST, which the deals must agree with whatever died meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol


class Kept(Protocol):
    """What PostgreSQL has of a deal."""

    @property
    def id(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def take_profit(self) -> Decimal | None: ...
    @property
    def stop_loss(self) -> Decimal | None: ...


@dataclass
class Answers:
    """Only what was answered with success: of a request that has no answer yet nobody knows what came of it.

    opened   the number of each deal by the name that its client gave it
    closed   the numbers of those closed by hand
    amended  the levels, `takeProfit` and `stopLoss`, of those that were amended
    """

    opened: dict[str, int] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    amended: dict[int, dict[str, str]] = field(default_factory=dict)

    def broken(self, deals: Iterable[Kept]) -> list[str]:
        """Where the deals, while no request is under way, say something else: gone, one too many, a change undone."""
        kept = {deal.id: deal for deal in deals}
        gone = [f"deal {key} ({name}) was answered and is gone" for name, key in self.opened.items() if key not in kept]
        strangers = [
            f"deal {key} is there and nobody was told" for key in sorted(kept.keys() - set(self.opened.values()))
        ]
        reopened = [
            f"deal {key} was closed by hand and is open"
            for key in self.closed
            if key in kept and kept[key].status == "open"
        ]
        undone = [
            f"deal {key} was amended to {levels} and is not"
            for key, levels in self.amended.items()
            if key in kept and not _has(kept[key], levels)
        ]
        return [*gone, *strangers, *reopened, *undone]


def _has(deal: Kept, levels: dict[str, str]) -> bool:
    now = {"takeProfit": deal.take_profit, "stopLoss": deal.stop_loss}
    return all(now[side] == Decimal(level) for side, level in levels.items())
