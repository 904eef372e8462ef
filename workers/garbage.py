"""How often this process looks for cycles of garbage: they are rare here, and looking keeps work waiting."""

from __future__ import annotations

import gc
from typing import Final

COLLECT_AFTER: Final = 50_000
"""Objects made and not freed before cycles are looked for: a batch of closures makes some ten thousand, all freed."""


def collect_rarely() -> None:
    """From now on; and never look at what is there already, which stays for good. To be called once all is imported."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
