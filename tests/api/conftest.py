"""A client that is logged in by token, and the account it asks for."""

from __future__ import annotations

import pytest
from deals.models import Account
from factories import make_account
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient


def client_of(account: Account) -> APIClient:
    """A client with the token of the account's user."""
    client = APIClient()
    token, _ = Token.objects.get_or_create(user_id=account.user_id)
    client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
    return client


@pytest.fixture
def account(db: None) -> Account:
    """An account with 10,000 USDT."""
    return make_account()


@pytest.fixture
def api(account: Account) -> APIClient:
    """A client of the account's user."""
    return client_of(account)


@pytest.fixture
def other_api(db: None) -> APIClient:
    """A client of someone else."""
    return client_of(make_account())


@pytest.fixture
def anonymous() -> APIClient:
    """A client without a log-in."""
    return APIClient(enforce_csrf_checks=True)
