"""One facade for Python callers: `from workers.manager import worker_manager`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from deals import quotes, services
from deals.errors import Conflict
from deals.models import Deal
from workers import control
from workers.audit import SYSTEM, Actor
from workers.models import Operation
from workers.operations import Started

Health = dict[str, Any]

LONGEST_S: Final = 600.0
"""An operation ends by itself long before: each of its steps has a limit."""


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

    def restart(self, reason: str = "restart", actor: Actor = SYSTEM) -> Operation:
        """Drain, replace the worker pools, rebuild the book, run again and prove it. Returns when it is done.

        Raises Conflict `operation_failed` with what failed (the system is stopped then), `operation_in_progress`,
        `system_halted`.
        """
        return _done(control.restart(reason, actor))

    def shutdown(
        self, reason: str = "shutdown", actor: Actor = SYSTEM, *, timeout_s: float = control.DRAIN_TIMEOUT_S
    ) -> Operation:
        """Stop firing, sweeping, opening and arming; what is in flight is finished. Doing it twice changes nothing.

        Raises Conflict `operation_failed` with what still runs after the timeout, `operation_in_progress`.
        """
        return _done(control.shutdown(reason, actor, timeout_s=timeout_s))

    def emergency_stop(self, reason: str = "emergency stop", actor: Actor = SYSTEM) -> Operation:
        """When it returns, no deal closes any more until `resume`. Redis is told last, and may be away."""
        return control.emergency_stop(reason, actor)

    def resume(self, reason: str = "resume", actor: Actor = SYSTEM) -> Operation:
        """Run again: every watched deal is watched from this moment on, except for what had fired.

        Raises Conflict `operation_failed` (Redis is away), `operation_in_progress`.
        """
        return _done(control.resume(reason, actor))


def _done(started: Started) -> Operation:
    operation = started.wait(LONGEST_S)
    if operation.state != Operation.State.DONE:
        what = operation.error or f"it is {operation.state}"
        raise Conflict("operation_failed", f"Operation {operation.pk} ({operation.kind}) did not succeed: {what}")
    return operation


worker_manager = WorkerManager()
