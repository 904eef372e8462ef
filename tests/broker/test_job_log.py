"""The job log: one row a finished settlement message, one a task that failed for good, and only the latest are kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from market import Market
from servers import Process, wait_until

from deals.models import Account, Deal
from workers import book, job_log
from workers.dispatch import send_closures
from workers.models import JobLog

State = JobLog.State


def jobs(state: JobLog.State) -> list[JobLog]:
    return list(JobLog.objects.filter(state=state))


@pytest.mark.timeout(150)
def test_a_settled_message_is_one_completed_job(
    market: Market, trader: Account, celery_worker: Callable[..., Process]
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    market.tick("111")
    fired = list(book.all_fired().values())
    celery_worker()
    send_closures(fired)
    wait_until(lambda: jobs(State.COMPLETED), 30)
    [job] = jobs(State.COMPLETED)
    assert (job.task, job.deals, job.closed, job.error) == ("workers.close_deals", 3, 3, "")
    assert job.duration_ms is not None
    assert job.started_at is not None
    assert 0 < job.duration_ms < 10_000
    assert job.started_at < job.finished_at
    assert Deal.objects.filter(status="closed").count() == len(deals)
    assert jobs(State.FAILED) == []


@pytest.mark.timeout(150)
def test_a_message_that_cannot_be_read_is_one_failed_job_with_its_error(
    transactional_db: None, celery_worker: Callable[..., Process]
) -> None:
    from workers.tasks import close_deals

    celery_worker()
    close_deals.apply_async(args=([[1]],), retry=False)
    wait_until(lambda: jobs(State.FAILED), 30)
    [job] = jobs(State.FAILED)
    assert (job.task, job.deals, job.closed) == ("workers.close_deals", 1, None)
    assert job.error.startswith("ValueError: ")
    assert jobs(State.COMPLETED) == []


def test_a_message_delivered_twice_is_one_job(db: None) -> None:
    from workers.tasks import close_deals

    for closed in (2, 0):
        job_log.log_completed(
            task_id="one", task=close_deals, args=([[1, ""], [2, ""]],), retval=closed, state="SUCCESS"
        )
    [job] = jobs(State.COMPLETED)
    assert (job.deals, job.closed) == (2, 0)


def test_a_run_that_asks_for_another_attempt_is_no_finished_job(db: None) -> None:
    from workers.tasks import close_deals

    job_log.log_completed(task_id="one", task=close_deals, args=([],), retval=None, state="RETRY")
    assert JobLog.objects.count() == 0


def test_the_latest_hundred_completed_and_fifty_failed_are_kept(db: None) -> None:
    now = timezone.now()
    JobLog.objects.bulk_create(
        JobLog(task_id=f"{state}{n}", task="t", state=state, finished_at=now - timedelta(seconds=n))
        for state in State.values
        for n in range(120)
    )
    assert job_log.trim() == 20 + 70
    assert [job.task_id for job in job_log.latest(State.COMPLETED)] == [f"completed{n}" for n in range(100)]
    assert [job.task_id for job in job_log.latest(State.FAILED)] == [f"failed{n}" for n in range(50)]
    assert job_log.trim() == 0
