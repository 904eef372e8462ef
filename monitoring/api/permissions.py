"""Who may look, and who may change something. One place for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class MayLook(IsAdminUser):
    """Staff."""


class MayChange(IsAdminUser):
    """Staff who may change deals: the group `operators`."""

    message = "Only staff who may change deals may do this: ask for the group `operators`."

    def has_permission(self, request: Request, view: object) -> bool:
        """False for everyone else: 401 without a log-in, 403 with one."""
        may_look = super().has_permission(request, view)  # type: ignore[arg-type]
        return may_look and cast("User", request.user).has_perm("deals.change_deal")
