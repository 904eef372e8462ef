"""The schedule: rows of the migration that nobody overwrites, and a real beat that keeps to them."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
import redis
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks
from servers import Process, wait_until

from workers import system
from workers.drivers import next_token

MIGRATION = importlib.import_module("workers.migrations.0002_tokens_and_schedule")
OURS = ["workers.housekeeping", "workers.reconcile", "workers.sweep"]


@pytest.fixture
def schedule(transactional_db: None) -> Iterator[None]:
    """The rows as after the first migration."""
    PeriodicTask.objects.all().delete()
    IntervalSchedule.objects.all().delete()
    MIGRATION.create_schedule(apps, None)
    yield
    PeriodicTask.objects.all().delete()


def test_the_sweep_is_due_every_two_seconds_and_expires_when_late(schedule: None) -> None:
    assert sorted(PeriodicTask.objects.values_list("name", flat=True)) == OURS
    sweep = PeriodicTask.objects.get(name="workers.sweep")
    assert sweep.interval is not None
    assert (sweep.interval.every, sweep.interval.period) == (2, "seconds")
    assert (sweep.task, sweep.queue, sweep.expire_seconds, sweep.enabled) == ("workers.sweep", "sweep", 2, True)
    assert set(PeriodicTask.objects.exclude(name="workers.sweep").values_list("queue", flat=True)) == {"default"}


def test_every_scheduled_task_exists(schedule: None) -> None:
    from celery import current_app

    current_app.loader.import_default_modules()
    assert set(PeriodicTask.objects.values_list("task", flat=True)) <= set(current_app.tasks)


def test_migrating_again_leaves_an_operators_edits_and_other_rows_alone(schedule: None) -> None:
    slower, _ = IntervalSchedule.objects.get_or_create(every=7, period="seconds")
    PeriodicTask.objects.filter(name="workers.sweep").update(interval=slower, enabled=False, queue="default")
    PeriodicTask.objects.create(name="an operator's own", task="workers.housekeeping", interval=slower)
    MIGRATION.create_schedule(apps, None)
    call_command("migrate", verbosity=0)
    edited = PeriodicTask.objects.get(name="workers.sweep")
    assert (edited.interval, edited.enabled, edited.queue) == (slower, False, "default")
    assert PeriodicTask.objects.count() == 4
    MIGRATION.delete_schedule(apps, None)
    assert PeriodicTask.objects.get().name == "an operator's own"


def test_the_migration_can_be_taken_back_and_applied_again(schedule: None) -> None:
    call_command("migrate", "workers", "0001", verbosity=0)
    assert not PeriodicTask.objects.filter(name__in=OURS).exists()
    call_command("migrate", "workers", verbosity=0)
    assert sorted(PeriodicTask.objects.values_list("name", flat=True)) == OURS
    assert next_token() < next_token()


@pytest.mark.alone
def test_a_real_beat_makes_a_real_worker_sweep_every_two_seconds(
    schedule: None, start_process: Callable[..., Process], celery_worker: Callable[..., Process]
) -> None:
    system.refresh_state()
    PeriodicTasks.update_changed()
    connection.close()
    worker = celery_worker(concurrency=2, env={"LOG_LEVEL": "DEBUG"})
    beat = start_process("celery", "beat")
    wait_until(lambda: len(_sweeps(worker)) >= 4, timeout_s=25, what="four sweeps")
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(_sweeps(worker)[-4:])]
    assert gaps == pytest.approx([2, 2, 2], abs=0.7)
    assert beat.alive
    assert "Traceback" not in worker.output
    password = urlsplit(os.environ["REDIS_URL"]).password
    assert password
    assert password not in worker.output + beat.output


def test_an_interval_changed_in_the_admin_site_takes_effect_without_a_restart_of_beat(
    schedule: None, start_process: Callable[..., Process], redis_client: redis.Redis
) -> None:
    """From an hour to a second. No worker: the messages wait in their queues, where they are counted."""
    browser = Client()
    browser.force_login(User.objects.create_superuser("operator"))
    _choose_interval(browser, "workers.sweep", every=3600)
    _choose_interval(browser, "workers.reconcile", every=1)  # shows that beat has read the schedule
    beat = start_process("celery", "beat")
    wait_until(lambda: _waiting(redis_client, "default"), timeout_s=30, what="beat runs")
    assert _waiting(redis_client, "sweep") == 0
    _choose_interval(browser, "workers.sweep", every=1)
    wait_until(lambda: _waiting(redis_client, "sweep") >= 3, timeout_s=30, what="three sweeps are asked for")
    assert beat.alive


def _choose_interval(browser: Client, task: str, *, every: int) -> None:
    """As an operator does: the form as it is, with another interval."""
    interval, _ = IntervalSchedule.objects.get_or_create(every=every, period="seconds")
    page = reverse("admin:django_celery_beat_periodictask_change", args=[PeriodicTask.objects.get(name=task).pk])
    form = browser.get(page).context["adminform"].form
    shown = {name: form.get_initial_for_field(field, name) for name, field in form.fields.items()}
    filled = {name: value for name, value in shown.items() if value not in {None, False}}
    answer = browser.post(page, filled | {"interval": interval.pk})
    assert answer.status_code == 302, answer.context["adminform"].errors
    assert PeriodicTask.objects.get(name=task).interval == interval


def _waiting(client: redis.Redis, queue: str) -> int:
    """Messages in a queue."""
    return int(client.llen(f"celery:{queue}"))


def _sweeps(worker: Process) -> list[datetime]:
    """When the worker ended its sweeps."""
    lines = [json.loads(line) for line in worker.output.splitlines() if '"sweep.done"' in line]
    return [datetime.fromisoformat(line["timestamp"]) for line in lines]
