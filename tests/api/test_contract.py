"""The whole OpenAPI document against the application on real servers, asked by everyone who could ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract import Examiner, World, successes
from rest_framework.settings import api_settings
from servers import Process

from monitoring.api import control_views

UNREACHED = {"GET /api/admin/workers/health": {200}, "GET /api/admin/workers/monitor/stream": {200}}
"""A healthy system needs every process, and a stream an ASGI server: `tests/broker/test_health.py` and
`tests/broker/stream/` have them.
"""


@pytest.fixture
def world(
    transactional_db: None,
    the_system_runs: None,
    celery_worker: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> World:
    """A system with a worker, in which nobody is throttled."""
    for scope in api_settings.DEFAULT_THROTTLE_RATES:
        monkeypatch.setitem(api_settings.DEFAULT_THROTTLE_RATES, scope, "1000000/min")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one takes half of the time
    monkeypatch.setattr(control_views, "ANSWER_WITHIN_S", 60.0)  # a restart ends before the next case begins
    celery_worker()
    return World()


@pytest.mark.timeout(400)  # some 1500 requests: 30 s of computing
def test_every_answer_is_as_the_openapi_document_says(world: World, subtests: Any) -> None:
    examiner = Examiner(world)
    operations = examiner.operations()
    for operation in operations:
        with subtests.test(operation.label):
            examiner.examine(operation)
            wrong = examiner.report.problems_of(operation.label)
            assert not wrong, "\n\n".join(wrong)
            promised = successes(operation) - UNREACHED.get(operation.label, set())
            assert promised <= examiner.report.statuses(operation.label)
    assert len(operations) >= 30
    assert not {(label, status) for label, status in examiner.report.answers if status >= 500 and status != 503}
