"""Who may look, and who may change something. One place for both."""

from __future__ import annotations

from rest_framework.permissions import IsAdminUser


class MayLook(IsAdminUser):
    """Staff."""


class MayChange(IsAdminUser):
    """Staff."""
