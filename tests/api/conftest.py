"""A client that is logged in by token, and the account it asks for. Read before Django is set up: imports are late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rest_framework.test import APIClient

    from deals.models import Account


@pytest.fixture
def account(db: None) -> Account:
    """An account with 10,000 USDT."""
    from factories import make_account

    return make_account()


@pytest.fixture
def api(account: Account) -> APIClient:
    """A client of the account's user."""
    from factories import client_of

    return client_of(account)


@pytest.fixture
def other_api(db: None) -> APIClient:
    """A client of someone else."""
    from factories import client_of, make_account

    return client_of(make_account())


@pytest.fixture
def anonymous() -> APIClient:
    """A client without a log-in."""
    from rest_framework.test import APIClient

    return APIClient(enforce_csrf_checks=True)
