"""The web process behind a TLS proxy: plain HTTP is redirected, what the proxy calls HTTPS is answered."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as project
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(settings: Any) -> Client:
    """As with HTTPS_ONLY=true and NUM_PROXIES=1."""
    settings.SECURE_SSL_REDIRECT = settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    settings.SECURE_HSTS_SECONDS = 3600
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    return Client()


def test_plain_http_is_redirected_and_nothing_is_answered(client: Client) -> None:
    answer = client.get("/admin/login/")
    assert (answer.status_code, answer["Location"]) == (301, "https://testserver/admin/login/")


def test_what_the_proxy_calls_https_is_answered_with_secure_cookies_and_hsts(client: Client) -> None:
    answer = client.get("/admin/login/", headers={"X-Forwarded-Proto": "https"})
    assert answer.status_code == 200
    assert answer["Strict-Transport-Security"] == "max-age=3600"
    assert answer.cookies["csrftoken"]["secure"]


@pytest.mark.parametrize("path", ["/livez", "/health"])
def test_a_probe_asks_the_process_without_the_proxy(client: Client, path: str) -> None:
    assert client.get(path).status_code in {200, 503}


def test_without_a_trusted_proxy_the_header_is_not_believed() -> None:
    assert project.REST_FRAMEWORK["NUM_PROXIES"] == 0
    assert project.SECURE_PROXY_SSL_HEADER is None
