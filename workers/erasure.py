"""Takes a person out of the data: the ledger stays true, and nobody can tell any more whose it was."""

from __future__ import annotations

from typing import Final

import structlog
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import is_password_usable
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import transaction
from rest_framework.authtoken.models import Token

from deals import personal_data
from deals.errors import Conflict, NotFound
from workers import audit
from workers.audit import ERASED, Actor
from workers.models import Operation
from workers.self_check import USERNAME as SELF_CHECK_USER

log = structlog.get_logger(__name__)

HOW_TO_CLOSE: Final = "Close them first (admin site, Deals, “Close now”; or the user himself), then erase again."


def erased_name(user_id: int) -> str:
    """The user name afterwards. Nobody can register it: user names have no space."""
    return f"{ERASED} {user_id}"


def erase_user(user_id: int, actor: Actor, reason: str) -> dict[str, int]:
    """Erase a user's personal data; returns what was erased, by kind, empty when nothing was left to erase.

    One transaction: deals and account are locked first, in the order of settlement, then the rest. The user stays as a
    number that nobody can log in as. Leaves an audit row unless nothing was left. Raises NotFound, Conflict
    `open_deals`, `system_user`.
    """
    with transaction.atomic(durable=True):
        try:
            client_ids = personal_data.erase(user_id)
        except Conflict as refused:
            raise Conflict(refused.code, f"{refused.message} {HOW_TO_CLOSE}") from None
        user = get_user_model().objects.select_for_update().filter(pk=user_id).first()
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        if user.get_username() == SELF_CHECK_USER:
            raise Conflict("system_user", "This user is the system's own: a restart proves with it that deals close.")
        counts = {
            "user": _erase_person(user),
            "tokens": Token.objects.filter(user_id=user_id).delete()[0],
            "sessions": _end_sessions(user_id),
            "clientIds": client_ids,
            "operations": _erase_from_operations(user_id),
            "auditRows": audit.erase(user_id),
            "adminLog": _erase_from_admin_log(user_id),
        }
        erased = {kind: count for kind, count in counts.items() if count}
        if erased:
            outcome = "erased " + ", ".join(f"{kind} {count}" for kind, count in erased.items())
            audit.record(actor, "erase_user", target=f"user {user_id}", reason=reason, outcome=outcome)
    if erased:
        log.warning("user.erased", user_id=user_id, by_user_id=actor.user_id)
    return erased


def _erase_person(user: User) -> int:
    """1 when there was something to erase."""
    before = (user.username, user.email, user.first_name, user.last_name, user.last_login, user.is_active)
    after = (erased_name(user.pk), "", "", "", None, False)
    if before == after and not is_password_usable(user.password) and not user.groups.exists():
        return 0
    user.username, user.email, user.first_name, user.last_name, user.last_login, user.is_active = after
    user.is_staff = user.is_superuser = False
    user.set_unusable_password()
    user.save()
    user.groups.clear()
    user.user_permissions.clear()
    return 1


def _end_sessions(user_id: int) -> int:
    """Sessions say whose they are in signed text only: each of them is read."""
    theirs = [
        session.pk for session in Session.objects.all() if session.get_decoded().get("_auth_user_id") == str(user_id)
    ]
    return Session.objects.filter(pk__in=theirs).delete()[0]


def _erase_from_operations(user_id: int) -> int:
    rows = Operation.objects.filter(user_id=user_id).exclude(requested_by=f"user {user_id}", source=ERASED)
    return rows.update(requested_by=f"user {user_id}", source=ERASED)


def _erase_from_admin_log(user_id: int) -> int:
    """The admin site's own log keeps the user name as the title of what was edited."""
    kind = ContentType.objects.get_for_model(get_user_model())
    rows = LogEntry.objects.filter(content_type=kind, object_id=str(user_id)).exclude(object_repr=f"user {user_id}")
    return rows.update(object_repr=f"user {user_id}")
