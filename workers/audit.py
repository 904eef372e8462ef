"""The audit log: one row for each thing an operator asks for, and one for what came of it. Rows never change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.throttling import BaseThrottle

from deals.errors import DealError
from workers.models import AuditEntry
from workers.sql import statement

TRIM_BATCH: Final = 1_000
ERASED: Final = "erased"
"""What stands in place of an address or a reason that was erased; the table's trigger knows it too."""


class Actor(NamedTuple):
    """Who does something, and from where: a user and an address, or a user of the machine and `cli`.

    `user_id` is for logs, which hold no names; None for a user of the machine.
    """

    who: str
    source: str
    user_id: int | None = None


SYSTEM = Actor("python", "in-process")
"""Callers of the Python facade who do not say who they are."""


def actor_of(request: HttpRequest) -> Actor:
    """Who asks and from where; behind proxies set NUM_PROXIES, or a client could make addresses up.

    A UNIX socket has no address: `unknown`.
    """
    address = BaseThrottle().get_ident(request)  # type: ignore[arg-type]  # it reads META only
    return Actor(request.user.get_username(), address or "unknown", request.user.pk)


def record(actor: Actor, action: str, *, target: str = "", reason: str = "", outcome: str = "done") -> None:
    """Append a row. Inside a transaction it is kept or lost together with what it speaks of."""
    AuditEntry.objects.create(
        at=timezone.now(),
        who=actor.who[:150],
        user_id=actor.user_id,
        source=actor.source[:64],
        action=action,
        target=target,
        reason=reason,
        outcome=outcome,
    )


@contextmanager
def refusals_recorded(actor: Actor, action: str, *, target: str = "", reason: str) -> Iterator[None]:
    """Append a row for a call that is refused, with the refusal's code, and pass the refusal on.

    Belongs outside the call's own transaction, which the refusal rolls back.
    """
    try:
        yield
    except DealError as refusal:
        record(actor, action, target=target, reason=reason, outcome=refusal.code)
        raise


def trim() -> int:
    """Delete rows older than AUDIT_KEEP_DAYS, the oldest first, 1,000 a call; returns how many. One transaction."""
    old = AuditEntry.objects.filter(at__lt=timezone.now() - timedelta(days=settings.AUDIT_KEEP_DAYS))
    with transaction.atomic():
        _allow("cryptocraze.trims_audit")
        batch = list(old.order_by("at", "pk").values_list("pk", flat=True)[:TRIM_BATCH])
        return AuditEntry.objects.filter(pk__in=batch).delete()[0]


def erase(user_id: int) -> int:
    """Blank name and address where this user acted, and reasons given for what was done to him or to his deals.

    Returns how many rows changed. Belongs into the caller's transaction.
    """
    _allow("cryptocraze.erases_user")
    with connection.cursor() as cursor:
        cursor.execute(statement("erase_from_audit"), {"user_id": user_id, "erased": ERASED})
        return int(cursor.rowcount)


def _allow(what: str) -> None:
    """Open the table's protection for the rest of this transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config(%s, 'yes', true)", [what])
