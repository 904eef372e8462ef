"""The audit log's protection, and what is let go of after its time: audit rows and finished operations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from workers import audit, operations
from workers.audit import Actor
from workers.models import AuditEntry, Operation
from workers.tasks import housekeeping

pytestmark = pytest.mark.django_db

BOSS = Actor("boss", "10.9.9.9", 77)
ERASING = "SET LOCAL cryptocraze.erases_user = 'yes'"
TRIMMING = "SET LOCAL cryptocraze.trims_audit = 'yes'"


def days_ago(days: int) -> Any:
    return timezone.now() - timedelta(days=days)


def written(days: int) -> AuditEntry:
    """An audit row of that age."""
    return AuditEntry.objects.create(
        at=days_ago(days), who="boss", user_id=77, source="x", action="resume", outcome="done"
    )


def operation(state: str = "done", kind: str = "shutdown", *, dead: bool = False) -> int:
    """The number of an operation that ended, or that says to run; `dead`: without a heartbeat."""
    now = timezone.now()
    return Operation.objects.create(
        kind=kind, state=state, reason="test", requested_by="boss", source="cli", created_at=now,
        heartbeat_at=now - timedelta(hours=1) if dead else now, finished_at=None if state == "running" else now,
    ).pk  # fmt: skip


def execute(*statements: str) -> None:
    """All in one transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        ("UPDATE audit_entries SET reason = 'erased'",),
        ("DELETE FROM audit_entries",),
        (TRIMMING, "DELETE FROM audit_entries"),
        (TRIMMING, "UPDATE audit_entries SET reason = 'erased'"),
        (ERASING, "DELETE FROM audit_entries"),
        (ERASING, "UPDATE audit_entries SET reason = 'a better reason'"),
        (ERASING, "UPDATE audit_entries SET who = 'user 1'"),
        (ERASING, "UPDATE audit_entries SET outcome = 'erased'"),
        (ERASING, "UPDATE audit_entries SET action = 'erased', reason = 'erased'"),
        (ERASING, "UPDATE audit_entries SET user_id = 1"),
        (ERASING, "UPDATE audit_entries SET at = now()"),
    ],
)
def test_the_audit_log_refuses_every_change_but_blanking_and_letting_go_of_old_rows(change: tuple[str, ...]) -> None:
    audit.record(BOSS, "restart", reason="why")
    before = list(AuditEntry.objects.values())
    with pytest.raises(IntegrityError, match="append-only"):
        execute(*change)
    assert list(AuditEntry.objects.values()) == before


@pytest.mark.django_db(transaction=True)
def test_a_door_opened_for_one_transaction_is_shut_in_the_next() -> None:
    written(400)
    written(399)
    execute(TRIMMING, "DELETE FROM audit_entries WHERE at < now() - interval '400 days'")
    with pytest.raises(IntegrityError, match="append-only"):
        execute("DELETE FROM audit_entries")
    assert AuditEntry.objects.count() == 1


def test_housekeeping_lets_go_of_audit_rows_after_their_time_and_no_earlier(settings: Any) -> None:
    settings.AUDIT_KEEP_DAYS = 40
    written(41)
    kept = [written(39), written(1)]
    assert housekeeping() == 1
    assert set(AuditEntry.objects.all()) == set(kept)


def test_a_call_deletes_the_oldest_first_and_no_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "TRIM_BATCH", 2)
    youngest = written(370)
    for days in (380, 390, 400):
        written(days)
    assert audit.trim() == 2
    assert sorted(row.at.date() for row in AuditEntry.objects.all()) == [days_ago(380).date(), youngest.at.date()]
    assert (audit.trim(), audit.trim()) == (2, 0)


def test_housekeeping_keeps_the_latest_operations(settings: Any) -> None:
    settings.OPERATIONS_KEEP = 3
    old, *kept = [operation() for _ in range(4)]
    assert housekeeping() == 1
    assert not Operation.objects.filter(pk=old).exists()
    assert sorted(Operation.objects.values_list("pk", flat=True)) == kept


def test_what_runs_what_health_names_and_what_mended_it_stay_however_old(settings: Any) -> None:
    settings.OPERATIONS_KEEP = 1
    buried = operation("abandoned")
    mended = operation("done", "resume")
    named = [operation("abandoned"), operation("running", dead=True)]
    runs = operation("running")
    failed = operation("failed")
    newest = operation()
    assert operations.trim() == 2
    assert sorted(Operation.objects.values_list("pk", flat=True)) == [mended, *named, runs, newest]
    assert not Operation.objects.filter(pk__in=[buried, failed]).exists()
    assert [row.pk for row in operations.abandoned()] == named
    assert operations.trim() == 0


def test_a_call_deletes_no_more_operations_than_a_batch(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OPERATIONS_KEEP = 1
    monkeypatch.setattr(operations, "TRIM_BATCH", 2)
    numbers = [operation() for _ in range(4)]
    assert operations.trim() == 2
    assert sorted(Operation.objects.values_list("pk", flat=True)) == numbers[2:]
