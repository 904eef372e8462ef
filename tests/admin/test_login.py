"""The door of the admin site."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from factories import make_user

pytestmark = pytest.mark.django_db
PAGE = "/admin/login/"


def attempt(client: Client, name: str, password: str) -> Any:
    return client.post(PAGE, {"username": name, "password": password, "next": "/admin/"})


def test_an_operator_logs_in_and_is_sent_on(client: Client) -> None:
    make_user("op", password="right-pass", is_staff=True)
    answer = attempt(client, "op", "right-pass")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")


def test_guessing_is_stopped_with_the_time_to_wait_and_looking_at_the_page_is_not(client: Client) -> None:
    make_user("op", password="right-pass", is_staff=True)
    statuses = [attempt(client, "op", f"wrong-{number}").status_code for number in range(12)]
    assert statuses == [200] * 10 + [429] * 2
    stopped = attempt(client, "op", "right-pass")
    assert stopped.status_code == 429
    assert 1 <= int(stopped.headers["Retry-After"]) <= 60
    assert client.get(PAGE).status_code == 200


def test_every_page_has_an_icon(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert (answer.status_code, answer["Location"]) == (301, "/static/monitoring/icon.svg")
    assert finders.find("monitoring/icon.svg") is not None
