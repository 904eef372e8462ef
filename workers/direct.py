"""The sweep without Redis: what the prices in a process's memory have reached is found and closed there and then.

Under the lock, with the question and the positions of every other sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deals.models import SystemState
from deals.queries import current_state
from workers import windows
from workers.book import Fired
from workers.clock import Clock
from workers.closing import Closer
from workers.exclusive import alone
from workers.prices import Price
from workers.sweep import SWEEP_LOCK


@dataclass
class DirectReport:
    """What one such sweep did. `skipped` is True when another sweep was at work, or the system does not run."""

    finished: list[Fired] = field(default_factory=list)
    """Had fired before, and needs no more."""
    unsettled: list[Fired] = field(default_factory=list)
    """Found now, but its data could not be settled: it has fired, and is to be handed in again."""
    found: int = 0
    swept: dict[str, int] = field(default_factory=dict)
    """Up to which price sequence each symbol is swept."""
    skipped: bool = False


def sweep_memory(
    prices: Mapping[str, Sequence[Price]], fired: Sequence[Fired], *, closer: Closer, clock: Clock
) -> DirectReport:
    """Close what had fired, at its price; then find what else these prices (oldest first) reached, and close that.

    Nothing happens while the system does not run; stale symbols wait for their next good price. The positions move on
    when what was found is closed. Raises django.db.OperationalError and InterfaceError, Unavailable.
    """
    report = DirectReport()
    if current_state().state != SystemState.State.RUNNING:
        report.skipped = True
        return report
    report.finished = closer.close(fired)
    with alone(SWEEP_LOCK) as mine:
        report.skipped = not mine
        if mine:
            _find(prices, report, {item.deal_id for item in fired}, closer, clock.now_ms())
    return report


def _find(
    prices: Mapping[str, Sequence[Price]], report: DirectReport, fired: set[int], closer: Closer, now_ms: int
) -> None:
    seen = [window for window in windows.from_prices(prices, windows.positions()) if window.is_fresh(now_ms)]
    for page in windows.due_pages(seen, now_ms):
        found = [item.fired for item in page if item.fired.deal_id not in fired]
        finished = {item.deal_id for item in closer.close(found)}
        report.unsettled += [item for item in found if item.deal_id not in finished]
        report.found += len(found)
    windows.advance(seen)
    report.swept = {window.symbol: window.seq for window in seen}
