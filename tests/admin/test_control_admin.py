"""The operator's pages of control: who sees what, that every action asks for a reason, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.db import DataError
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from domain import new_account
from factories import make_user
from market import Market

from deals.models import Deal, Monitoring
from deals.queries import current_state
from deals.settlement import Failure
from workers import book, dead_letters, groups, system
from workers.clock import WALL_CLOCK
from workers.drivers import next_token
from workers.models import AuditEntry, DeadLetter, JobLog, Operation
from workers.redis_client import connect

STATE = "/admin/deals/systemstate/"
LETTERS = "/admin/workers/deadletter/"
JOBS = "/admin/workers/joblog/"
SCHEDULE = "/admin/django_celery_beat/periodictask/"
ACTIONS = ("restart", "shutdown", "resume", "emergency-stop")


@pytest.fixture
def member(transactional_db: None, the_system_runs: None) -> Callable[[str], Client]:
    """The browser of a member of staff in a group: member("operators")."""
    groups.create_groups(Group, Permission)  # clearing the database after a transactional test takes them away

    def log_in(name: str) -> Client:
        user = make_user(f"{name}-member", is_staff=True)
        user.groups.add(Group.objects.get(name=name))
        client = Client()
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def live(transactional_db: None, the_system_runs: None) -> Iterator[Market]:
    """A prices process on the wall clock."""
    system.refresh_state()
    market = Market(clock=WALL_CLOCK, token=next_token())
    yield market
    market.close()


@pytest.fixture
def letter(live: Market) -> DeadLetter:
    """A deal that could not be settled."""
    live.tick("100")
    live.open(new_account(), take_profit="110")
    [fired] = live.tick("111")
    failure = Failure(fired.due(), DataError("too large"))
    dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
    book.clear_fired([(fired.deal_id, fired.version)])
    return DeadLetter.objects.get()


def text_of(answer: Any) -> str:
    return str(answer.content.decode())


def send(client: Client, path: str, **fields: str) -> Any:
    return client.post(path, {"confirmed": "yes", **fields}, follow=True, REMOTE_ADDR="10.1.2.3")


def test_an_action_asks_for_a_reason_and_does_nothing_without_one(member: Callable[[str], Client]) -> None:
    operator = member("operators")
    for name in ACTIONS:
        page = operator.get(f"{STATE}{name}/")
        assert page.status_code == 200
        assert 'name="reason"' in text_of(page)
        for reason in ("", "   "):
            assert "This field is required" in text_of(send(operator, f"{STATE}{name}/", reason=reason))
    assert current_state().state == "running"
    assert not Operation.objects.exists()


def test_an_operator_stops_at_once_resumes_and_drains(live: Market, member: Callable[[str], Client]) -> None:
    operator = member("operators")
    stopped = send(operator, f"{STATE}emergency-stop/", reason="wrong prices")
    assert (current_state().state, "(emergency_stop) is done" in text_of(stopped)) == ("halted", True)
    refused = send(operator, f"{STATE}restart/", reason="too early")
    assert "resume it first" in text_of(refused)
    send(operator, f"{STATE}resume/", reason="over")
    assert current_state().state == "running"
    send(operator, f"{STATE}shutdown/", reason="new disk")
    assert current_state().state == "stopped"
    failed = send(operator, f"{STATE}restart/", reason="now")
    assert "no worker answers" in text_of(failed)
    audited = AuditEntry.objects.exclude(outcome="requested").order_by("pk")
    assert list(audited.values_list("who", "source", "action", "reason")) == [
        ("operators-member", "10.1.2.3", "emergency_stop", "wrong prices"),
        ("operators-member", "10.1.2.3", "restart", "too early"),
        ("operators-member", "10.1.2.3", "resume", "over"),
        ("operators-member", "10.1.2.3", "shutdown", "new disk"),
        ("operators-member", "10.1.2.3", "restart", "now"),
    ]


def test_support_sees_everything_and_can_do_nothing(letter: DeadLetter, member: Callable[[str], Client]) -> None:
    operator, support = member("operators"), member("support")
    send(operator, f"{STATE}emergency-stop/", reason="wrong prices")
    operation, entry = Operation.objects.get(), AuditEntry.objects.get()
    for path in (
        STATE, LETTERS, f"{LETTERS}{letter.pk}/change/", "/admin/workers/operation/", "/admin/workers/auditentry/",
        f"/admin/workers/operation/{operation.pk}/change/", f"/admin/workers/auditentry/{entry.pk}/change/",
        "/admin/deals/deal/", "/admin/django_celery_beat/periodictask/",
    ):  # fmt: skip
        page = support.get(path)
        assert page.status_code == 200, path
        assert 'name="_save"' not in text_of(page)
    for name in ACTIONS:
        assert f"{STATE}{name}/" not in text_of(support.get(STATE))
        assert f"{STATE}{name}/" in text_of(operator.get(STATE))
        assert support.get(f"{STATE}{name}/").status_code == 403
        assert send(support, f"{STATE}{name}/", reason="test").status_code == 403
    chosen = {"_selected_action": str(letter.pk)}
    for action in ("requeue", "discard"):
        send(support, LETTERS, action=action, reason="test", **chosen)
        assert f'value="{action}"' not in text_of(support.get(LETTERS))
    assert DeadLetter.objects.get().state == "failed"
    assert current_state().state == "halted"


def test_support_reads_which_jobs_ended_how(member: Callable[[str], Client]) -> None:
    now = timezone.now()
    done = {"task": "workers.close_deals", "started_at": now, "finished_at": now, "duration_ms": 12.5, "deals": 3}
    good = JobLog.objects.create(task_id="good-1", state="completed", closed=3, **done)
    bad = JobLog.objects.create(task_id="bad-1", state="failed", error="OperationalError: gone", **done)
    support = member("support")
    page = text_of(support.get(JOBS))
    assert "OperationalError: gone" in page
    assert "12.5" in page
    only_failed = text_of(support.get(f"{JOBS}?state__exact=failed"))
    assert (f"{JOBS}{bad.pk}/change/" in only_failed, f"{JOBS}{good.pk}/change/" in only_failed) == (True, False)
    assert "bad-1" in text_of(support.get(f"{JOBS}{bad.pk}/change/"))
    assert support.get(f"{JOBS}add/").status_code == 403
    assert support.post(f"{JOBS}{bad.pk}/delete/", {"post": "yes"}).status_code == 403
    assert JobLog.objects.count() == 2


def test_only_operators_change_the_schedule(member: Callable[[str], Client]) -> None:
    operator, support = member("operators"), member("support")
    interval = IntervalSchedule.objects.create(every=2, period="seconds")
    sweep = PeriodicTask.objects.create(name="a sweep", task="workers.sweep", interval=interval)
    chosen = {"_selected_action": str(sweep.pk)}
    for action in ("disable_tasks", "toggle_tasks", "run_tasks"):
        assert f'value="{action}"' not in text_of(support.get(SCHEDULE))
        support.post(SCHEDULE, {"action": action, **chosen})
        assert PeriodicTask.objects.get(pk=sweep.pk).enabled
    assert support.post(f"{SCHEDULE}{sweep.pk}/change/", {"name": "mine"}).status_code == 403
    assert connect().llen("celery:sweep") == 0  # nothing was run
    operator.post(SCHEDULE, {"action": "disable_tasks", **chosen})
    assert not PeriodicTask.objects.get(pk=sweep.pk).enabled


@pytest.mark.parametrize("model", ["operation", "auditentry"])
def test_operations_and_the_audit_log_are_read_only_even_for_a_superuser(operator: Client, model: str) -> None:
    send(operator, f"{STATE}emergency-stop/", reason="wrong prices")
    row = {"operation": Operation, "auditentry": AuditEntry}[model].objects.get()
    page = text_of(operator.get(f"/admin/workers/{model}/{row.pk}/change/"))
    assert "wrong prices" in page
    for path in (f"/admin/workers/{model}/add/", f"/admin/workers/{model}/{row.pk}/delete/"):
        assert operator.get(path).status_code == 403
    assert operator.post(f"/admin/workers/{model}/{row.pk}/change/", {"reason": "other"}).status_code == 403


def test_an_operator_requeues_and_discards_with_a_reason(letter: DeadLetter, member: Callable[[str], Client]) -> None:
    operator = member("operators")
    chosen = {"_selected_action": str(letter.pk)}
    asked = operator.post(LETTERS, {"action": "requeue", **chosen})
    assert ('name="reason"' in text_of(asked), DeadLetter.objects.get().state) == (True, "failed")
    answer = send(operator, LETTERS, action="requeue", reason="mended", **chosen)
    assert f"Dead letter {letter.pk}: requeued." in text_of(answer)
    refused = send(operator, LETTERS, action="discard", reason="hopeless", **chosen)
    assert "is on its way" in text_of(refused)
    assert Deal.objects.get().monitoring == Monitoring.PENDING
    audited = AuditEntry.objects.order_by("pk").values_list("action", "reason", "outcome")
    assert list(audited) == [
        ("dead_letter.requeue", "mended", "done"), ("dead_letter.discard", "hopeless", "letter_requeued"),
    ]  # fmt: skip


def test_discarding_takes_the_deal_out_of_monitoring(letter: DeadLetter, member: Callable[[str], Client]) -> None:
    send(member("operators"), LETTERS, action="discard", reason="hopeless", _selected_action=str(letter.pk))
    assert (DeadLetter.objects.get().state, Deal.objects.get().monitoring) == ("discarded", Monitoring.REMOVED)


def test_the_groups_of_the_migration_have_their_rights(db: None) -> None:
    groups.create_groups(Group, Permission)
    rights = {group.name: set(group.permissions.values_list("codename", flat=True)) for group in Group.objects.all()}
    assert {"control_system", "change_deadletter", "view_deal"} <= rights["operators"]
    assert {name for name in rights["support"] if not name.startswith("view_")} == set()
    assert "view_auditentry" in rights["support"]
