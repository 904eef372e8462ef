"""How long to wait before the next connection attempt: exponential, with full jitter. It doesn't wait."""

from __future__ import annotations

import random

_MAX_DOUBLINGS = 30


class Backoff:
    """Delays between attempts: none before the first, then random from 0 to a bound that doubles up to a cap.

    A connection that lived `healthy_after_s` starts the series afresh; one that was accepted and dropped at
    once does not. With the defaults that is some 30 attempts in 5 minutes.
    """

    def __init__(
        self,
        *,
        base_s: float = 0.25,
        cap_s: float = 30.0,
        healthy_after_s: float = 60.0,
        rng: random.Random | None = None,
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._healthy_after_s = healthy_after_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._failures = 0
        self._at_least_s = 0.0

    def ended(self, lived_s: float, *, at_least_s: float = 0.0) -> None:
        """Note that an attempt or a connection ended; `at_least_s` is the wait the other side asked for."""
        if lived_s >= self._healthy_after_s:
            self._failures = 0
        self._failures += 1
        self._at_least_s = at_least_s

    def delay_s(self) -> float:
        """Seconds to wait before the next attempt."""
        if self._failures == 0:
            return 0.0
        bound_s = min(self._cap_s, self._base_s * 2.0 ** min(self._failures - 1, _MAX_DOUBLINGS))
        return max(self._at_least_s, self._rng.uniform(0.0, bound_s))
