"""The audit log: one row for each thing an operator asks for, and one for what came of it. Rows never change."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpRequest
from django.utils import timezone
from rest_framework.throttling import BaseThrottle

from workers.models import AuditEntry


class Actor(NamedTuple):
    """Who does something, and from where: a user and an address, or a user of the machine and `cli`."""

    who: str
    source: str


SYSTEM = Actor("python", "in-process")
"""Callers of the Python facade who do not say who they are."""


def actor_of(request: HttpRequest) -> Actor:
    """Who asks and from where; behind proxies set NUM_PROXIES, or a client could make addresses up.

    A UNIX socket has no address: `unknown`.
    """
    address = BaseThrottle().get_ident(request)  # type: ignore[arg-type]  # it reads META only
    return Actor(request.user.get_username(), address or "unknown")


def record(actor: Actor, action: str, *, target: str = "", reason: str = "", outcome: str = "done") -> None:
    """Append a row. Inside a transaction it is kept or lost together with what it speaks of."""
    AuditEntry.objects.create(
        at=timezone.now(),
        who=actor.who[:150],
        source=actor.source[:64],
        action=action,
        target=target,
        reason=reason,
        outcome=outcome,
    )
