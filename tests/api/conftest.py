"""A client that is logged in by token, and the account it asks for. Read before Django is set up: imports are late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture
def scraper(transactional_db: None, the_system_runs: None, settings: Any) -> Iterator[APIClient]:
    """Prometheus, with the token of the settings, before a process that has counted nothing and was asked by nobody."""
    from scrapes import client_with

    from monitoring import probes
    from monitoring.api.metrics_view import ScrapeThrottle
    from workers import counters, system

    system.refresh_state()
    ScrapeThrottle.cache.clear()
    counters._waiting.forget()
    settings.METRICS_TOKEN = "t" * 40
    yield client_with(settings.METRICS_TOKEN)
    counters._waiting.forget()
    probes._redis_client.cache_clear()
