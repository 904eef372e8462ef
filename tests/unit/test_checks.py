"""System checks: each wrong setting is named by its own id, with a hint; good settings are met with silence."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from servers import PROJECT

from cryptocraze import checks, deploy_checks, env
from cryptocraze.celery import app

KEY = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijklmnop"
DATABASE = "postgresql://u:p@db.example/name?sslmode=verify-full"
REDIS = "rediss://:secret@cache.example:6380/0"
GOOD = {
    "DEBUG": False,
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": ["tpsl.example.com", "127.0.0.1"],
    "SESSION_COOKIE_SECURE": True,
    "CSRF_COOKIE_SECURE": True,
    "SECURE_SSL_REDIRECT": True,
    "SECURE_HSTS_SECONDS": 3600,
    "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    "ADDRESSES": env.Addresses(DATABASE, REDIS),
    "REDIS_URL": REDIS,
    "CELERY_BROKER_URL": REDIS,
    "LOG_LEVEL": "INFO",
}


def _put(settings: Any, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)


def _ours(found: list[CheckMessage]) -> list[str]:
    for message in found:
        assert message.hint, f"{message.id} does not say what to do"
    return [str(message.id) for message in found]


@pytest.fixture
def production(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings as they should be."""
    _put(settings, GOOD)
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "operator:a-long-random-password")
    return settings


def test_good_settings_have_nothing_to_say(production: Any) -> None:
    assert [message for message in run_checks(include_deployment_checks=True) if not message.is_silenced()] == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"DEBUG": True}, ["W001"]),
        ({"SECRET_KEY": "short"}, ["W002"]),
        ({"SECRET_KEY": "a" * 60}, ["W002"]),
        ({"SECRET_KEY": f"django-insecure-{KEY}"}, ["W002"]),
        ({"ALLOWED_HOSTS": ["*"]}, ["W003"]),
        ({"ALLOWED_HOSTS": ["127.0.0.1", "localhost", "[::1]"]}, ["W003"]),
        ({"SESSION_COOKIE_SECURE": False}, ["W004"]),
        ({"CSRF_COOKIE_SECURE": False}, ["W004"]),
        ({"SECURE_SSL_REDIRECT": False}, ["W004"]),
        ({"SECURE_HSTS_SECONDS": 0}, ["W004"]),
        ({"SECURE_PROXY_SSL_HEADER": None}, ["W005"]),
        ({"REDIS_URL": "redis://:secret@cache.example:6379/0"}, ["W006"]),
        ({"REDIS_URL": "rediss://cache.example:6380/0"}, ["W007"]),
        ({"REDIS_URL": "redis://10.0.0.7/0"}, ["W006", "W007"]),
        ({"REDIS_URL": "redis://127.0.0.1/0"}, []),
        ({"REDIS_URL": "redis://[::1]:6379/0"}, []),
        ({"REDIS_URL": "unix:///run/valkey.sock"}, []),
        ({"CELERY_BROKER_URL": "amqp://u:p@broker.example//"}, ["W006"]),
        ({"CELERY_BROKER_URL": "amqps://u:p@broker.example//"}, []),
        ({"CELERY_BROKER_URL": "sentinel://:p@127.0.0.1:1;sentinel://:p@10.0.0.7:1"}, ["W006"]),
        ({"PRICE_SOURCE": "simulated"}, ["W011"]),
        ({"PRICE_STALE_AFTER_S": 3}, ["W012"]),
        ({"PRICE_STALE_AFTER_S": 61}, ["W012"]),
        ({"STATIC_ONLY": True}, ["W013"]),
        ({"LOG_LEVEL": "DEBUG"}, ["W014"]),
    ],
)
def test_a_setting_unfit_for_production_is_named(production: Any, changes: dict[str, Any], found: list[str]) -> None:
    _put(production, changes)
    assert _ours(run_checks(tags=["cryptocraze"], include_deployment_checks=True)) == [
        f"cryptocraze.{name}" for name in found
    ]


@pytest.mark.parametrize(
    ("query", "host", "found"),
    [
        ("", "db.example", True),
        ("?sslmode=require", "db.example", True),
        ("?sslmode=verify-ca", "db.example", False),
        ("?sslmode=verify-full", "db.example:5432", False),
        ("", "127.0.0.1:5432", False),
        ("", "[::1]:5432", False),
        ("?host=/run/postgresql", "", False),
        ("?host=db.example", "", True),
        ("", "%2Frun%2Fpostgresql", False),
    ],
)
def test_a_remote_database_needs_a_checked_certificate(production: Any, query: str, host: str, found: bool) -> None:
    production.ADDRESSES = env.Addresses(f"postgresql://u:p@{host}/name{query}", REDIS)
    assert _ours(list(deploy_checks.check_servers())) == (["cryptocraze.W008"] if found else [])


@pytest.mark.parametrize("login", ["", "admin:admin", "no-password", ":a-long-random-password"])
def test_flower_needs_a_login_that_cannot_be_guessed(
    production: Any, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", login)
    assert _ours(list(deploy_checks.check_flower())) == ["cryptocraze.W009"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"SYMBOLS": []}, ["E001"]),
        ({"SYMBOLS": ["BTCUSDT", "btc usdt;"]}, ["E001"]),
        ({"SYMBOLS": ["X" * 33]}, ["E001"]),
        ({"SYMBOLS": ["SELFCHECK"]}, ["E002"]),
        ({"PRICE_STALE_AFTER_S": 0}, ["E003"]),
        ({"MAX_MONITORING_H": 25}, ["E004"]),
        ({"MAX_MONITORING_H": 0}, ["E004"]),
        ({"BINANCE_WS_URL": "https://stream.binance.com"}, ["E005"]),
        ({"AUDIT_KEEP_DAYS": 29}, ["E030"]),
    ],
)
def test_a_wrong_value_is_an_error_everywhere(settings: Any, changes: dict[str, Any], found: list[str]) -> None:
    _put(settings, changes)
    assert _ours(run_checks(tags=["cryptocraze"])) == [f"cryptocraze.{name}" for name in found]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"visibility_timeout": 44}, ["E011"]),
        ({"visibility_timeout": 45}, []),
        ({"socket_timeout": None}, ["E012"]),
        ({"health_check_interval": 0}, ["E012"]),
        ({"health_check_interval": 25}, ["W020"]),
    ],
)
def test_broker_options_that_contradict_the_tasks_are_named(
    settings: Any, options: dict[str, Any], found: list[str]
) -> None:
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = settings.CELERY_BROKER_TRANSPORT_OPTIONS | options
    assert _ours(list(checks.check_celery())) == [f"cryptocraze.{name}" for name in found]


def test_the_longest_hold_counts_every_tasks_own_limit() -> None:
    """The reconcile's 40 s and the second retry's 4 s: 44 s."""
    assert max(task.time_limit or 0 for name, task in app.tasks.items() if name.startswith("workers.")) == 40


def test_a_soft_time_limit_not_below_the_hard_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.tasks["workers.sweep"], "soft_time_limit", 12)
    [message] = checks.check_celery()
    assert message.id == "cryptocraze.E010"
    assert message.msg.startswith("The soft time limit of workers.sweep (12 s)")


def test_another_broker_needs_no_options_of_redis(settings: Any) -> None:
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = {}
    assert _ours(list(checks.check_celery())) == []


SILENCE = {"tcp_user_timeout": 10_000, "keepalives_idle": 5}
LIMITS = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=20s"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"OPTIONS": {"pool": {"max_size": 4}}}, ["E020", "E022", "E023"]),
        ({"CONN_HEALTH_CHECKS": False}, ["E021"]),
        ({"OPTIONS": SILENCE | {"options": "-c statement_timeout=15s -c lock_timeout=5s"}}, ["E022"]),
        ({"OPTIONS": {"options": LIMITS}}, ["E023"]),
    ],
)
def test_connections_that_could_hang_or_break_are_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], found: list[str]
) -> None:
    for name, value in changes.items():
        monkeypatch.setitem(settings.DATABASES["default"], name, value)
    assert _ours(list(checks.check_connections())) == [f"cryptocraze.{name}" for name in found]


def test_a_pool_outside_the_web_process_is_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = settings.DATABASES["default"]["OPTIONS"] | {"pool": {"max_size": 20}}
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", options)
    assert _ours(list(deploy_checks.check_processes())) == ["cryptocraze.W015"]


def test_the_variables_of_the_deployment_page_satisfy_every_check() -> None:
    """A process of its own: the settings are made from the environment."""
    variables = {
        "DATABASE_URL": DATABASE, "REDIS_URL": REDIS, "SECRET_KEY": KEY, "ALLOWED_HOSTS": "tpsl.example.com,127.0.0.1",
        "HTTPS_ONLY": "true", "NUM_PROXIES": "1", "FLOWER_BASIC_AUTH": "operator:a-long-random-password",
    }  # fmt: skip
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(
        command, env=os.environ | variables, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("System check identified no issues")
