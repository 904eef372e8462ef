"""The log of finished jobs, written by Celery's signals around the tasks: it never keeps a task from ending."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final

import structlog
from celery.signals import task_failure, task_postrun, task_prerun
from django.db import Error as DatabaseTrouble
from django.db import connection
from django.utils import timezone

from workers import counters
from workers.models import JobLog
from workers.sql import statement

log = structlog.get_logger(__name__)

LOGGED: Final = "workers.close_deals"
"""The task whose every message is logged; of the others only failures are."""

KEEP_COMPLETED: Final = 100
KEEP_FAILED: Final = 50
ERROR_LENGTH: Final = 2_000


def connect_signals() -> None:
    """Called once when the application starts."""
    task_prerun.connect(note_start, dispatch_uid="workers.job_log.note_start")
    task_postrun.connect(log_completed, dispatch_uid="workers.job_log.log_completed")
    task_failure.connect(log_failed, dispatch_uid="workers.job_log.log_failed")


def note_start(task: Any, **_signal: Any) -> None:
    """Receives `task_prerun`: keeps the start on the request, which lives as long as this run."""
    task.request.started_monotonic = time.monotonic()


def log_completed(
    task_id: str, task: Any, args: Any = (), retval: Any = None, state: str | None = None, **_signal: Any
) -> None:
    """Receives `task_postrun`. A run that asked for another attempt is no end."""
    if task.name == LOGGED and state == "SUCCESS":
        _write(task_id, task, JobLog.State.COMPLETED, deals=len(args[0]), closed=retval)


def log_failed(sender: Any, task_id: str, exception: BaseException, args: Any = (), **_signal: Any) -> None:
    """Receives `task_failure`, in the process that ran the task, or in the worker's main one if that was lost."""
    error = f"{type(exception).__name__}: {exception}"[:ERROR_LENGTH]
    deals = len(args[0]) if sender.name == LOGGED and args else None
    _write(task_id, sender, JobLog.State.FAILED, deals=deals, error=error)
    counters.count({counters.field(counters.FAILURES, "message"): 1})
    if _started(sender) is None:
        connection.close()  # the worker's main process runs no tasks and keeps no connection


def _started(task: Any) -> float | None:
    return getattr(task.request, "started_monotonic", None)


def _write(
    task_id: str, task: Any, state: JobLog.State, *, deals: int | None, closed: int | None = None, error: str = ""
) -> None:
    now = timezone.now()
    started = _started(task)
    elapsed = None if started is None else timedelta(seconds=time.monotonic() - started)
    row = {
        "task_id": task_id,
        "task": task.name,
        "started_at": None if elapsed is None else now - elapsed,
        "finished_at": now,
        "duration_ms": None if elapsed is None else round(elapsed / timedelta(milliseconds=1), 3),
        "state": state.value,
        "deals": deals,
        "closed": closed,
        "error": error,
    }
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement("write_job"), row)
    except DatabaseTrouble as trouble:
        log.warning("job_log.not_written", task=task.name, task_id=task_id, error=str(trouble))


def trim() -> int:
    """Delete what is beyond the latest 100 completed and 50 failed jobs; returns how many."""
    deleted = 0
    for state, keep in ((JobLog.State.COMPLETED, KEEP_COMPLETED), (JobLog.State.FAILED, KEEP_FAILED)):
        jobs = JobLog.objects.filter(state=state).order_by("-finished_at", "-pk")
        oldest_kept = jobs.values_list("finished_at", flat=True)[keep - 1 : keep].first()
        if oldest_kept is not None:  # those of the same moment may stay
            deleted += JobLog.objects.filter(state=state, finished_at__lt=oldest_kept).delete()[0]
    return deleted


def latest(state: JobLog.State) -> list[JobLog]:
    """The latest jobs of a state: 100 completed or 50 failed, newest first."""
    keep = KEEP_COMPLETED if state == JobLog.State.COMPLETED else KEEP_FAILED
    return list(JobLog.objects.filter(state=state).order_by("-finished_at", "-pk")[:keep])
