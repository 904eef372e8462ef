"""Everything that is held of a person, as JSON, piece by piece: a trader may have a million deals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.db.models import QuerySet
from djangorestframework_camel_case.util import camelize
from rest_framework.authtoken.models import Token

from deals.errors import NotFound
from deals.history import history
from deals.models import Account, Deal, DealEvent, LedgerEntry
from deals.money import plain
from deals.queries import notifications
from workers.models import AuditEntry, DeadLetter, Operation
from workers.sql import statement

CHUNK: Final = 1_000
# A reader of the file may be slow, a pipe may stand still for a while.
PATIENCE: Final = "10min"
LETTER: Final = (
    "id",
    "deal_id",
    "version",
    "price",
    "fired_at",
    "error",
    "attempts",
    "first_failed_at",
    "last_failed_at",
    "state",
)


def export_user(user_id: int) -> Iterator[str]:
    """The text of one JSON object, in pieces; all of it as of one moment. Raises NotFound at the first piece.

    Credentials are not in it: of the password nothing, of a token when it was made, of a session when it ends.
    """
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{PATIENCE}'")
        user = _user(user_id)
        yield "{\n" + f'"user": {_json(user)}'
        for name, rows in _parts(user_id):
            yield f',\n"{name}": ['
            separator = "\n"
            for row in rows:
                yield separator + _json(row)
                separator = ",\n"
            yield "\n]"
        yield "\n}\n"


def _user(user_id: int) -> dict[str, Any]:
    fields = ("id", "username", "email", "first_name", "last_name", "date_joined", "last_login", "is_active")
    users = get_user_model().objects.filter(pk=user_id)
    row = users.values(*fields, "is_staff", "is_superuser").first()
    if row is None:
        raise NotFound(f"There is no user {user_id}.")
    groups = users.filter(groups__isnull=False).values_list("groups__name", flat=True)
    return {**row, "groups": sorted(str(name) for name in groups)}


def _parts(user_id: int) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    """Name and rows of each list."""
    deals = Deal.objects.filter(account__user_id=user_id)
    yield "tokens", _rows(Token.objects.filter(user_id=user_id).values("created"))
    yield "sessions", _sessions(user_id)
    yield "accounts", _rows(Account.objects.filter(user_id=user_id).values())
    yield "deals", _rows(deals.values())
    yield "dealEvents", _events(user_id)
    yield "ledger", _rows(LedgerEntry.objects.filter(account__user_id=user_id).values())
    yield "notifications", _notifications(user_id)
    yield "deadLetters", _rows(DeadLetter.objects.filter(deal__in=deals).values(*LETTER))
    yield "auditBy", _rows(AuditEntry.objects.filter(user_id=user_id).values())
    yield "auditAbout", _audit_about(user_id)
    yield "operations", _rows(Operation.objects.filter(user_id=user_id).values())
    yield "adminLog", _rows(LogEntry.objects.filter(user_id=user_id).values("id", "action_time", "object_repr"))


def _rows(rows: QuerySet[Any, Any]) -> Iterator[dict[str, Any]]:
    return rows.order_by("pk").iterator(chunk_size=CHUNK)


def _events(user_id: int) -> Iterator[dict[str, Any]]:
    names = [field.attname for field in DealEvent._meta.concrete_fields]  # noqa: SLF001 - Django's documented way to fields
    for event in history(DealEvent.objects.filter(deal__account__user_id=user_id)):
        yield {name: getattr(event, name) for name in names}


def _notifications(user_id: int) -> Iterator[dict[str, Any]]:
    """With the time that they were published, wherever it is written."""
    for row in _rows(notifications().filter(account__user_id=user_id).values()):
        told_at = row.pop("told_at")
        yield row | {"published_at": told_at}


def _sessions(user_id: int) -> Iterator[dict[str, Any]]:
    """Sessions say whose they are in signed text only: each of them is read."""
    for session in Session.objects.order_by("pk").iterator(chunk_size=CHUNK):
        if session.get_decoded().get("_auth_user_id") == str(user_id):
            yield {"expire_date": session.expire_date}


def _audit_about(user_id: int) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(statement("audit_about"), {"user_id": user_id})
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _json(row: dict[str, Any]) -> str:
    return json.dumps(camelize(row), default=_as_text, ensure_ascii=False)


def _as_text(value: object) -> str:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
