"""`manage.py check --deploy --database default` finds the demo's accounts while they have their public passwords."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.checks import CheckMessage, run_checks
from factories import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def found(**context: Any) -> list[CheckMessage]:
    messages = run_checks(tags=["database"], include_deployment_checks=True, **context)
    return [message for message in messages if message.id == "cryptocraze.W010"]


def test_the_demos_operator_and_traders_are_named_by_number() -> None:
    operator, trader = make_user("admin", password="admin"), make_user("ada", password="demo")
    [message] = found(databases=["default"])
    assert message.msg == f"Users {trader.pk}, {operator.pk} still have the demo's public passwords."
    assert message.hint


def test_people_of_the_same_name_with_other_passwords_are_left_alone() -> None:
    make_user("admin", password="a password of her own")
    make_user("grace", password="admin")
    make_user("linus", password="demo", is_active=False)
    assert found(databases=["default"]) == []


def test_without_a_database_nothing_is_asked(django_assert_num_queries: Any) -> None:
    make_user("admin", password="admin")
    with django_assert_num_queries(0):
        assert found() == []
    assert User.objects.filter(username="admin").exists()
