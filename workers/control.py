"""What an operator does to the whole system: shut down, restart, resume, stop at once. Every caller comes through here.

REST, commands, admin and `worker_manager` call these four; each is recorded with who, from where, why and what came of
it, refused ones too. PostgreSQL holds the state: nothing resumes by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from django.conf import settings
from django.db import OperationalError
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals import state
from deals.errors import Conflict, Unavailable
from deals.models import WATCHED, Deal, Status
from deals.queries import CurrentState, current_state
from workers import audit, book, in_flight, operations, pools, reconcile, self_check, sweep, system
from workers.audit import Actor
from workers.models import Operation
from workers.operations import Failed, Run, Started

log = structlog.get_logger(__name__)
State = state.State
Kind = Operation.Kind

DRAIN_TIMEOUT_S: Final = 30.0
REBUILD_TIMEOUT_S: Final = 120.0
COUNT_TIMEOUT_S: Final = 10.0
SELF_CHECK_TIMEOUT_S: Final = 20.0
TELL_REDIS_S: Final = 0.2


def shutdown(reason: str, actor: Actor, *, timeout_s: float = DRAIN_TIMEOUT_S) -> Started:
    """Stop firing, sweeping, opening and arming, and finish what is in flight. Processes stay up, idle.

    Doing it twice answers the state; a halted system stays halted. When something still runs after the timeout the
    operation fails and says what, and the state stays `draining`. Raises Conflict `operation_in_progress`.
    """
    with audit.refusals_recorded(actor, Kind.SHUTDOWN, reason=reason):
        return operations.start(Kind.SHUTDOWN, reason, actor, lambda run: _drain(run, reason, timeout_s))


def restart(reason: str, actor: Actor, *, timeout_s: float = DRAIN_TIMEOUT_S) -> Started:
    """Shut down, replace the worker pools, rebuild the book, compare, run again, and prove that a deal closes.

    What fails is said, and the system stays stopped. Raises Conflict `operation_in_progress`, `system_halted`,
    Unavailable `static_only`.
    """
    with audit.refusals_recorded(actor, Kind.RESTART, reason=reason):
        if settings.STATIC_ONLY:
            raise Unavailable("static_only", "STATIC_ONLY is on: the workers are turned off here.")
        if current_state().state == State.HALTED:
            raise Conflict("system_halted", "The system was stopped at once: resume it first, then restart it.")
        return operations.start(Kind.RESTART, reason, actor, lambda run: _restart(run, reason, timeout_s))


def resume(reason: str, actor: Actor) -> Started:
    """Run again, from any state: every watched deal is watched from this moment on, except for what had fired.

    Raises Conflict `operation_in_progress`.
    """
    with audit.refusals_recorded(actor, Kind.RESUME, reason=reason):
        return operations.start(Kind.RESUME, reason, actor, lambda run: _resume(run, reason))


def emergency_stop(reason: str, actor: Actor) -> Operation:
    """When it returns, no deal opens or closes any more until `resume`. Within a second, also while Redis is away.

    Waits for no other operation: one that runs finds the state changed and ends. Redis is told last, by a thread.
    Raises Unavailable `stop_not_confirmed`: the state is `halted`, but a closer could not be ended.
    """
    before = current_state()
    try:
        state.halt(reason)
    except OperationalError as error:
        audit.record(actor, Kind.EMERGENCY_STOP, reason=reason, outcome=f"not confirmed: {error}")
        raise Unavailable("stop_not_confirmed", f"The system is halted, but {error}") from error
    after = current_state()
    _tell_redis(lambda: _cache_state(after))
    outcome = "was halted already" if before.state == State.HALTED else f"halted; was {before.state}"
    operation = operations.record_done(Kind.EMERGENCY_STOP, reason, actor, [("halt", outcome)])
    _tell_redis(lambda: operations.publish(operation))
    return operation


def _cache_state(current: CurrentState) -> None:
    """The sweep and the prices process do it again when Redis is away."""
    try:
        system.cache_state(current)
    except RedisError as error:
        log.warning("system.state_not_cached", error=str(error))


def _tell_redis(tell: Callable[[], None]) -> None:
    """In a thread: a Redis that hangs must not hold up the answer."""
    thread = threading.Thread(target=tell, name="tell-redis", daemon=True)
    thread.start()
    thread.join(TELL_REDIS_S)


# --- the steps ----------------------------------------------------------------------------------------------------


def _drain(run: Run, reason: str, timeout_s: float) -> None:
    before = current_state().state
    if before in {State.STOPPED, State.HALTED}:
        run.step("drain", f"the system is {before} already")
        return
    state.change(State.DRAINING, reason, only_from=(State.RUNNING,))
    since = timezone.now()
    run.step("draining", "nothing opens, fires or is swept any more")
    run.wait(_redis_does_not_know, timeout_s)
    run.wait(lambda: _left(since), timeout_s)
    if not state.change(State.STOPPED, reason, only_from=(State.DRAINING,)):
        raise Failed(f"someone else changed the state: it is {current_state().state}")
    system.refresh_state_if_reachable()
    run.step("drain", "stopped: nothing is in flight")


def _redis_does_not_know() -> str:
    try:
        system.refresh_state()
    except RedisError as error:
        return f"Redis does not answer ({error}): what is in flight cannot be seen"
    return ""


def _left(since: datetime) -> str:
    left = str(in_flight.look(since))
    if left:
        try:
            sweep.resend()  # the sweep that would do it has stopped
        except (RedisError, BrokerError) as error:
            log.warning("control.resend_failed", error=str(error))
    return left


def _restart(run: Run, reason: str, timeout_s: float) -> None:
    _drain(run, reason, timeout_s)
    try:
        run.step("pools", pools.replace(run))
        run.step("book", _rebuild_book(run))
        run.step("counts", _compare_counts(run))
        run.step("resume", _run_again(reason))
        run.step("self-check", self_check.check(run, SELF_CHECK_TIMEOUT_S))
    except (RedisError, BrokerError) as error:
        _stay_stopped(reason)
        raise Failed(f"Redis or the broker does not answer: {error}") from error
    except BaseException:
        _stay_stopped(reason)
        raise


def _run_again(reason: str) -> str:
    if not system.resume(reason, only_from=(State.STOPPED,)):
        raise Failed(f"someone else changed the state: it is {current_state().state}")
    return "running"


def _stay_stopped(reason: str) -> None:
    """A restart that failed after it had resumed stops again; what is halted stays halted."""
    if state.change(State.STOPPED, f"failed: {reason}", only_from=(State.RUNNING,)):
        system.refresh_state_if_reachable()


def _rebuild_book(run: Run) -> str:
    deals: list[int] = []

    def busy() -> str:
        done = reconcile.rebuild()
        if done is not None:
            deals.append(done)
        return "another process is checking the book" if done is None else ""

    run.wait(busy, REBUILD_TIMEOUT_S)
    return f"{deals[0]} deals put into the book"


def _compare_counts(run: Run) -> str:
    """Users who close by hand meanwhile make the two sides differ for a moment."""
    seen = ""

    def different() -> str:
        nonlocal seen
        watched = Deal.objects.filter(status=Status.OPEN, monitoring__in=WATCHED).count()
        held = sum(book.armed_count([*settings.SYMBOLS, self_check.SYMBOL]).values())
        fired = len(book.all_fired())
        seen = f"{watched} watched in PostgreSQL = {held} in the book + {fired} fired"
        return "" if watched == held + fired else f"{watched} watched in PostgreSQL, {held} in the book, {fired} fired"

    run.wait(different, COUNT_TIMEOUT_S)
    return seen


def _resume(run: Run, reason: str) -> None:
    try:
        resumed = system.resume(reason)
    except RedisError as error:
        raise Failed(f"Redis does not answer, and without prices nothing can be watched: {error}") from error
    run.step("resume", "running" if resumed else "the system was running already")
