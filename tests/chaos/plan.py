"""Which faults a long run consists of, and in which order: all of it follows from the seed."""

from __future__ import annotations

import random
from typing import Final

from chaos.faults import FAULTS, Fault

ROUND: Final = 50
BREAKS_SHARE: Final = 40
BEFORE, AFTER = 12, 4
INSTEAD: Final = {"prices killed": "worker killed", "prices stopped for 8 s": "worker stopped for 6 s"}


def rounds(*, kills: int, restarts: int, rng: random.Random) -> list[list[Fault]]:
    """So many kills and restarts, and the other faults beside them, in rounds of 50."""
    names = _drawn("kill", kills, rng) + _drawn("restart", restarts, rng)
    names += _drawn("break", max(kills // BREAKS_SHARE, 1), rng)
    rng.shuffle(names)
    _keep_one_memory(names)
    faults = [FAULTS[name] for name in names]
    return [faults[start : start + ROUND] for start in range(0, len(faults), ROUND)]


def samples(number: int, size: int) -> list[Fault]:
    """The faults whose recovery is measured at the beginning of a round: all kinds in turn, the long ones once."""
    once, often = list(FAULTS), [name for name, fault in FAULTS.items() if not fault.long]
    turns = range(number * size, (number + 1) * size)
    return [FAULTS[once[turn] if turn < len(once) else often[turn % len(often)]] for turn in turns]


def _drawn(group: str, count: int, rng: random.Random) -> list[str]:
    """Every kind of the group at least once, if there is room; the rest by weight."""
    kinds = [fault for fault in FAULTS.values() if fault.group == group]
    first = [fault.name for fault in kinds][:count]
    more = rng.choices(kinds, [fault.weight for fault in kinds], k=count - len(first))
    return first + [fault.name for fault in more]


def _keep_one_memory(names: list[str]) -> None:
    """No harm to a prices process near a Redis that forgets.

    What the prices process and Redis lose at the same moment is the one stated limit of the promise.
    """
    for index, name in enumerate(names):
        if FAULTS[name].forgets:
            for near in range(max(0, index - BEFORE), min(len(names), index + AFTER + 1)):
                names[near] = INSTEAD.get(names[near], names[near])
