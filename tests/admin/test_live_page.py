"""The live page's frame, who may see what of it, and the Content-Security-Policy of every page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from factories import make_user

from workers.groups import CONTROL

LIVE = "/admin/workers/"


def told(answer: Any) -> dict[str, Any]:
    found = re.search(r'<script id="told" type="application/json">(.*?)</script>', answer.content.decode())
    assert found
    return dict(json.loads(found[1]))


def directives(answer: Any) -> dict[str, str]:
    header = answer.headers["Content-Security-Policy"]
    return {name: values for name, _, values in (part.strip().partition(" ") for part in header.split(";"))}


def test_nobody_else_sees_it(client: Client, db: None) -> None:
    assert client.get(LIVE).headers["Location"] == "/admin/login/?next=/admin/workers/"
    client.force_login(make_user())
    assert client.get(LIVE).status_code == 302


def test_controls_are_only_for_those_who_may_use_them(staff: Callable[..., Client]) -> None:
    operator = staff("control_system", "view_deadletter", "change_deadletter").get(LIVE)
    assert operator.content.decode().count("data-control=") == 4
    assert told(operator)["may"]["change_letters"]
    support = staff("view_deadletter").get(LIVE)
    assert "data-control=" not in support.content.decode()
    assert told(support)["may"] | {"letters": True} == dict.fromkeys(told(support)["may"], False) | {"letters": True}
    assert "You may not see dead letters" in staff().get(LIVE).content.decode()
    assert ("workers", "control_system") in CONTROL


def test_the_navigation_leads_to_it(operator: Client) -> None:
    assert f'href="{LIVE}"' in operator.get("/admin/").content.decode()


@pytest.mark.parametrize(
    "place", ["/admin/", LIVE, "/admin/login/", "/admin/deals/deal/", "/api/docs", "/api/deals", "/livez", "/nothing"]
)
def test_no_page_runs_what_comes_from_elsewhere_or_stands_in_it(operator: Client, place: str) -> None:
    answer = operator.get(place)
    policy = directives(answer)
    assert policy["default-src"] == "'self'"
    assert (policy["object-src"], policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'none'", "'none'")
    assert "unsafe-inline" not in policy.get("script-src", "")
    assert ("'unsafe-eval'" in policy.get("script-src", "")) == place.startswith("/admin/")  # Alpine
    assert "http" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("place", ["/admin/", LIVE, "/admin/deals/deal/", "/api/docs"])
def test_no_script_stands_in_a_page(operator: Client, place: str) -> None:
    page = operator.get(place).content.decode()
    scripts = re.findall(r"<script\b([^>]*)>", page)
    assert scripts
    assert all("src=" in attributes or 'type="application/json"' in attributes for attributes in scripts)
    assert not re.search(r"\son[a-z]+=", page)
