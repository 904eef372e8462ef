"""Operators' browsers. Read before Django is set up: imports are late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django.test import Client


@pytest.fixture
def operator(db: None) -> Client:
    """A superuser's browser."""
    from django.test import Client
    from factories import make_user

    client = Client()
    client.force_login(make_user(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """The browser of a staff member with some permissions: staff("view_deal", "change_deal")."""
    from django.contrib.auth.models import Permission
    from django.test import Client
    from factories import make_user

    def log_in(*codenames: str) -> Client:
        user = make_user(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client()
        client.force_login(user)
        return client

    return log_in
