"""One facade for Python callers: `from workers.manager import worker_manager`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deals import quotes, services, state
from deals.models import Deal
from workers import reconcile, system

Health = dict[str, Any]


class WorkerManager:
    """The calls that the simulator's back end makes. It holds no state of its own: every process may use one."""

    def __init__(self) -> None:
        self._health: Callable[[], Health] | None = None

    def bind_health(self, provider: Callable[[], Health]) -> None:
        """Called by `monitoring` when it starts: it watches this application, which must not import it."""
        self._health = provider

    def add_order_to_monitoring(self, deal: Deal) -> Deal:
        """Watch an open deal from the current price on; one that is watched already is left as it is.

        Raises DealError as `deals.services.add_to_monitoring` and the quote board do.
        """
        return services.add_to_monitoring(deal_id=deal.pk, quote=quotes.board().quote(deal.symbol))

    def remove_order_from_monitoring(self, deal_id: int) -> Deal:
        """Take an open deal out of monitoring for good and tell its user. Raises DealError."""
        return services.remove_from_monitoring(deal_id=deal_id)

    def get_system_health(self) -> Health:
        """What `GET /health` says of the workers."""
        if self._health is None:
            raise RuntimeError("no health provider is bound: the `monitoring` application binds one when it starts")
        return self._health()

    def restart(self, reason: str = "restart") -> None:
        """Stop firing, rebuild the book from PostgreSQL, and run again."""
        self.shutdown(reason)
        reconcile.reconcile()
        self.resume(reason)

    def shutdown(self, reason: str = "shutdown") -> None:
        """Stop firing, sweeping, opening and arming; what is in flight is finished. Doing it twice changes nothing."""
        state.change(state.State.STOPPED, reason)
        system.refresh_state()

    def emergency_stop(self, reason: str = "emergency stop") -> None:
        """When it returns, no deal closes any more until `resume`. Redis is told last, and may be away."""
        state.halt(reason)
        system.refresh_state_if_reachable()

    def resume(self, reason: str = "resume") -> None:
        """Run again: every watched deal is watched from this moment on, except for what had fired."""
        system.resume(reason)


worker_manager = WorkerManager()
