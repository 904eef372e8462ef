"""Runs one operation on the whole system at a time, in a thread of the process that was asked, with a heartbeat.

The holder of the advisory lock CONTROL_LOCK is the one that runs. The lock and the heartbeat use one connection of
their own: they live and die together. A row that says `running` without a heartbeat was abandoned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import Q
from django.utils import timezone

from deals.errors import Conflict, DealError
from workers import audit, events
from workers.audit import Actor
from workers.models import Operation
from workers.retry import DATABASE_ERRORS

log = structlog.get_logger(__name__)

CONTROL_LOCK: Final = 7308
HEARTBEAT_S: Final = 1.0
ABANDONED_AFTER: Final = timedelta(seconds=10)
TRIM_BATCH: Final = 1_000
POLL_S: Final = 0.05
GIVING_UP_S: Final = 1.0


class Failed(Exception):
    """A step did not succeed; the text says what, for the operator."""


class TimedOut(Failed):
    """What was waited for had not happened when its time was over."""


class Run:
    """What the work of an operation sees of it: it says its steps, and asks whether it may go on."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.timed_out = False
        self.ended = threading.Event()
        """Set when its row and its lock are done with. A thread's `join` breaks when Ctrl-C interrupts it (3.11)."""
        self._cancelled = threading.Event()
        self._lost = threading.Event()

    def step(self, name: str, outcome: str) -> None:
        """Write down that a step was done, and how. Raises Failed when the operation may not go on."""
        self.go_on()
        self.operation.steps.append({"name": name, "at": timezone.now().isoformat(), "outcome": outcome})
        Operation.objects.filter(pk=self.operation.pk).update(steps=self.operation.steps)
        log.info("operation.step", operation_id=self.operation.pk, step=name, outcome=outcome)
        publish(self.operation)

    def go_on(self) -> None:
        """Raise Failed when someone interrupted it or its lock is lost."""
        if self._cancelled.is_set():
            raise Failed("interrupted")
        if self._lost.is_set():
            raise Failed("the connection that held the control lock was lost")

    def wait(self, what_is_left: Callable[[], str], timeout_s: float, *, every_s: float = POLL_S) -> None:
        """Poll until nothing is left. Raises TimedOut with what still is."""
        deadline = time.monotonic() + timeout_s
        while left := what_is_left():
            self.go_on()
            if time.monotonic() >= deadline:
                raise TimedOut(f"after {timeout_s:g} s: {left}")
            time.sleep(every_s)

    def cancel(self) -> None:
        """Ask the work to end at its next step."""
        self._cancelled.set()

    def lose(self) -> None:
        """The lock is gone."""
        self._lost.set()


class Started:
    """An operation that runs, here or (then `run` is None) in another process."""

    def __init__(self, operation_id: int, run: Run | None = None) -> None:
        self.operation_id = operation_id
        self._run = run

    def wait(self, timeout_s: float) -> Operation:
        """The operation as it is once it has ended, or after that time."""
        deadline = time.monotonic() + timeout_s
        if self._run is not None:
            self._run.ended.wait(timeout_s)
            return self.now()
        while (operation := self.now()).state == Operation.State.RUNNING and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return operation

    def now(self) -> Operation:
        """The operation as its row says."""
        return Operation.objects.get(pk=self.operation_id)

    @property
    def timed_out(self) -> bool:
        """Whether it ended because its time was over; only known in the process that ran it."""
        return self._run is not None and self._run.timed_out

    def cancel(self) -> None:
        """Interrupt it: it fails at its next step. What runs in another process is left alone."""
        if self._run is not None:
            self._run.cancel()
            self._run.ended.wait()


def start(kind: Operation.Kind, reason: str, actor: Actor, work: Callable[[Run], None]) -> Started:
    """Begin an operation and return at once. One at a time: asking for the one that runs answers that one.

    Raises Conflict `operation_in_progress` while another kind runs, django.db.OperationalError.
    """
    keeper = _free_lock()
    if keeper is None:
        return _join(kind, reason, actor)
    try:
        operation = _create(kind, reason, actor)
    except BaseException:
        keeper.release()
        raise
    run = Run(operation)
    keeper.keep(run)
    thread = threading.Thread(
        target=_perform, args=(run, actor, work, keeper), name=f"operation-{operation.pk}", daemon=True
    )
    thread.start()
    return Started(operation.pk, run)


def record_done(kind: Operation.Kind, reason: str, actor: Actor, steps: list[tuple[str, str]]) -> Operation:
    """Write down an operation that needed no lock and has ended well already."""
    now = timezone.now()
    operation = Operation.objects.create(
        kind=kind, reason=reason, requested_by=actor.who[:150], user_id=actor.user_id, source=actor.source[:64],
        heartbeat_at=now, created_at=now, finished_at=now, state=Operation.State.DONE,
        steps=[{"name": name, "at": now.isoformat(), "outcome": outcome} for name, outcome in steps],
    )  # fmt: skip
    audit.record(actor, kind, target=f"operation {operation.pk}", reason=reason)
    return operation


def publish(operation: Operation) -> None:
    """Tell the operators how an operation stands. Takes as long as a Redis that hangs: two seconds."""
    said = {
        "id": operation.pk,
        "kind": operation.kind,
        "state": operation.state,
        "reason": operation.reason,
        "userId": operation.user_id,
        "steps": operation.steps,
        "error": operation.error,
    }
    events.publish("operation", said)


def state_of(operation: Operation) -> Operation.State:
    """Its state; `abandoned` also when it is said to run and its process has died."""
    alive = operation.heartbeat_at > timezone.now() - ABANDONED_AFTER
    if operation.state == Operation.State.RUNNING and not alive:
        return Operation.State.ABANDONED
    return Operation.State(operation.state)


def running() -> Operation | None:
    """The operation that runs now and is alive."""
    alive = Operation.objects.filter(state=Operation.State.RUNNING, heartbeat_at__gt=timezone.now() - ABANDONED_AFTER)
    return alive.order_by("-pk").first()


def abandoned() -> list[Operation]:
    """Operations whose process died, and after which no resume or restart has succeeded: an operator has to resume."""
    dead = Q(state=Operation.State.ABANDONED) | Q(
        state=Operation.State.RUNNING, heartbeat_at__lte=timezone.now() - ABANDONED_AFTER
    )
    return list(Operation.objects.filter(dead, pk__gt=_last_mended()).order_by("pk"))


def _last_mended() -> int:
    """The last restart or resume that succeeded; 0 without one."""
    kinds = (Operation.Kind.RESUME, Operation.Kind.RESTART)
    mended = Operation.objects.filter(state=Operation.State.DONE, kind__in=kinds).order_by("-pk")
    return mended.values_list("pk", flat=True).first() or 0


def trim() -> int:
    """Delete what is beyond the latest OPERATIONS_KEEP, 1,000 a call; returns how many.

    What runs, what health still names as abandoned, and the restart or resume after which it no longer does, stay.
    """
    ended = Operation.objects.exclude(state=Operation.State.RUNNING)
    kept = [_last_mended(), *(operation.pk for operation in abandoned())]
    newest = Operation.objects.order_by("-pk").values_list("pk", flat=True)
    oldest_kept = newest[settings.OPERATIONS_KEEP - 1 : settings.OPERATIONS_KEEP].first()
    if oldest_kept is None:
        return 0
    batch = list(
        ended.filter(pk__lt=oldest_kept).exclude(pk__in=kept).order_by("pk").values_list("pk", flat=True)[:TRIM_BATCH]
    )
    return Operation.objects.filter(pk__in=batch).delete()[0]


def _free_lock() -> _Keeper | None:
    """The lock, or None while another operation runs. One that has just ended gives it up in a moment."""
    deadline = time.monotonic() + GIVING_UP_S
    while True:
        keeper = _Keeper()
        if keeper.acquire():
            return keeper
        if running() is not None or time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)


def _join(kind: Operation.Kind, reason: str, actor: Actor) -> Started:
    operation = running()
    if operation is not None and operation.kind == kind:
        audit.record(actor, kind, target=f"operation {operation.pk}", reason=reason, outcome="joined")
        return Started(operation.pk)
    what = "Another operation" if operation is None else f"Operation {operation.pk} ({operation.kind})"
    raise Conflict("operation_in_progress", f"{what} is running: wait until it has ended.")


def _create(kind: Operation.Kind, reason: str, actor: Actor) -> Operation:
    """The caller holds the lock: whoever else is said to run has died."""
    now = timezone.now()
    dead = Operation.objects.filter(state=Operation.State.RUNNING)
    dead.update(state=Operation.State.ABANDONED, finished_at=now, error="the process that ran it has ended")
    operation = Operation.objects.create(
        kind=kind, reason=reason, requested_by=actor.who[:150], user_id=actor.user_id, source=actor.source[:64],
        heartbeat_at=now, created_at=now, steps=[],
    )  # fmt: skip
    audit.record(actor, kind, target=f"operation {operation.pk}", reason=reason, outcome="requested")
    log.warning("operation.started", operation_id=operation.pk, kind=kind, user_id=actor.user_id)
    return operation


def _perform(run: Run, actor: Actor, work: Callable[[Run], None], keeper: _Keeper) -> None:
    error = ""
    publish(run.operation)
    try:
        work(run)
    except (Failed, DealError) as failure:
        run.timed_out = isinstance(failure, TimedOut)
        error = str(failure)
    except Exception as failure:  # whatever it was: the operator must read it, and the row must not stay `running`
        log.exception("operation.broke", operation_id=run.operation.pk)
        error = f"{type(failure).__name__}: {failure}"
    try:
        _finish(run.operation, actor, error)
    except DATABASE_ERRORS:  # without its heartbeat the row says `abandoned`, which is true
        log.exception("operation.not_finished", operation_id=run.operation.pk)
    finally:
        keeper.release()
        connection.close()
        run.ended.set()


def _finish(operation: Operation, actor: Actor, error: str) -> None:
    state = Operation.State.FAILED if error else Operation.State.DONE
    operation.state, operation.error, operation.finished_at = state, error, timezone.now()
    Operation.objects.filter(pk=operation.pk, state=Operation.State.RUNNING).update(
        state=state, error=error, finished_at=operation.finished_at, steps=operation.steps
    )
    audit.record(
        actor, operation.kind, target=f"operation {operation.pk}", reason=operation.reason, outcome=error or "done"
    )
    log.warning("operation.ended", operation_id=operation.pk, kind=operation.kind, state=str(state), error=error)
    publish(operation)


class _Keeper:
    """Holds the control lock and writes the heartbeat, on one connection, in a thread of its own."""

    def __init__(self) -> None:
        self._decided = threading.Event()
        self._release = threading.Event()
        self._mine = False
        self._error: Exception | None = None
        self._run: Run | None = None
        self._thread = threading.Thread(target=self._work, name="control-lock", daemon=True)

    def acquire(self) -> bool:
        """Try to take the lock; never waits for it. Raises django.db.OperationalError."""
        self._thread.start()
        self._decided.wait()
        if self._error is not None:
            raise self._error
        return self._mine

    def keep(self, run: Run) -> None:
        """Write this operation's heartbeat from now on."""
        self._run = run

    def release(self) -> None:
        """Give the lock up; returns when it is free."""
        self._release.set()
        self._thread.join()

    def _work(self) -> None:
        own: Any = connections.create_connection(DEFAULT_DB_ALIAS)
        try:
            with own.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [CONTROL_LOCK])
                self._mine = bool(cursor.fetchone()[0])
            self._decided.set()
            if self._mine:
                self._beat(own)
        except DATABASE_ERRORS as error:
            log.warning("operation.lock_lost", error=str(error))
            self._error = error
            if self._run is not None:
                self._run.lose()
        finally:
            self._decided.set()
            own.close()

    def _beat(self, own: Any) -> None:
        while not self._release.wait(HEARTBEAT_S):
            if self._run is not None:
                with own.cursor() as cursor:
                    cursor.execute("UPDATE operations SET heartbeat_at = now() WHERE id = %s", [self._run.operation.pk])
        with own.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [CONTROL_LOCK])
