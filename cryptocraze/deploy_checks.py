"""System checks before production: `manage.py check --deploy`; with `--database default` the demo's accounts too."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password
from django.core.checks import CheckMessage, Tags
from django.core.checks import Warning as Caution
from django.core.checks import register as register_check

from workers.management.commands.demo_setup import TRADERS

SHORTEST_KEY: Final = 50
SHORTEST_PASSWORD: Final = 12
LEASE_S: Final = 3
OLDEST_PRICE_S: Final = 60
PUBLIC_LOGINS: Final = {"admin": "admin"} | dict.fromkeys(TRADERS, "demo")
ENCRYPTED: Final = {"rediss", "amqps", "unix"}


def register() -> None:
    """Called once when the application starts."""
    for check in (check_web, check_servers, check_flower, check_prices, check_processes):
        register_check(check, "cryptocraze", deploy=True)
    register_check(check_demo_accounts, "cryptocraze", Tags.database, deploy=True)


def check_web(**_context: Any) -> Iterator[CheckMessage]:
    """What a browser meets."""
    if settings.DEBUG:
        yield Caution(
            "DEBUG is on: error pages show settings, code and data to whoever causes an error.",
            hint="Unset DEBUG.",
            id="cryptocraze.W001",
        )
    key = settings.SECRET_KEY
    if len(key) < SHORTEST_KEY or len(set(key)) < 5 or key.startswith("django-insecure-"):  # noqa: PLR2004 - as Django
        yield Caution(
            "SECRET_KEY is short or no random text: sessions could be forged.",
            hint='Make one: python -c "import secrets; print(secrets.token_urlsafe(50))", the same for every process.',
            id="cryptocraze.W002",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Caution(
            "ALLOWED_HOSTS admits every host name.",
            hint="List the names under which the web process is asked.",
            id="cryptocraze.W003",
        )
    elif all(is_local(host.strip("[]")) for host in settings.ALLOWED_HOSTS):
        yield Caution(
            "ALLOWED_HOSTS names only this machine: a request for any other name is refused.",
            hint="List the public name as well, for example ALLOWED_HOSTS=tpsl.example.com,127.0.0.1.",
            id="cryptocraze.W003",
        )
    yield from _check_https()


def _check_https() -> Iterator[CheckMessage]:
    off = [
        name
        for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS")
        if not getattr(settings, name)
    ]
    if off:
        yield Caution(
            f"The web process does not insist on HTTPS ({', '.join(off)}): passwords, tokens and cookies may travel "
            "in plain text.",
            hint="Put a TLS proxy in front and set HTTPS_ONLY=true (and HSTS_S above 0).",
            id="cryptocraze.W004",
        )
    if settings.SECURE_SSL_REDIRECT and not getattr(settings, "SECURE_PROXY_SSL_HEADER", None):
        yield Caution(
            "HTTPS_ONLY is on, but NUM_PROXIES is 0: X-Forwarded-Proto of a proxy on another machine is not believed, "
            "and every request would be redirected for ever.",
            hint="Set NUM_PROXIES to the number of proxies in front, which must overwrite X-Forwarded-Proto. "
            "If uvicorn itself holds the certificate, silence this check.",
            id="cryptocraze.W005",
        )


def check_servers(**_context: Any) -> Iterator[CheckMessage]:
    """PostgreSQL, Redis and the broker: who could read or change what goes over the network."""
    yield from _check_redis("REDIS_URL", settings.REDIS_URL)
    if settings.CELERY_BROKER_URL != settings.REDIS_URL:
        yield from _check_redis("CELERY_BROKER_URL", settings.CELERY_BROKER_URL)
    address = urlsplit(settings.ADDRESSES.database_url)
    asked = parse_qs(address.query)
    hosts = [part.rpartition("@")[2] for part in address.netloc.split(",")] + asked.get("host", [])
    mode = asked.get("sslmode", ["prefer"])[-1]
    if not all(is_local(_without_port(host)) for host in hosts if host) and mode not in {"verify-ca", "verify-full"}:
        yield Caution(
            f"DATABASE_URL names another machine with sslmode={mode}: the server's certificate is not checked.",
            hint="Add ?sslmode=verify-full&sslrootcert=FILE.",
            id="cryptocraze.W008",
        )


def _check_redis(name: str, url: str) -> Iterator[CheckMessage]:
    for part in url.split(";"):  # several addresses of one broker
        address = urlsplit(part)
        login, _, hosts = address.netloc.rpartition("@")
        if address.scheme == "unix" or all(is_local(_without_port(host)) for host in hosts.split(",")):
            continue
        if address.scheme not in ENCRYPTED:
            yield Caution(
                f"{name} names another machine without TLS: what goes over it can be read and changed.",
                hint=f"Begin {name} with rediss:// (amqps:// for RabbitMQ), with REDIS_CA_FILE for a CA of your own; "
                "in a private network or tunnel, silence this check.",
                id="cryptocraze.W006",
            )
        if not login.partition(":")[2]:
            yield Caution(
                f"{name} names another machine without a password: whoever reaches it can close deals.",
                hint=f"Give the server a password and put it into {name}.",
                id="cryptocraze.W007",
            )
        return


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_local(host: str) -> bool:
    """Whether a host is this machine: a loopback address, localhost, nothing at all, or the folder of a socket."""
    if host in {"", "localhost"} or host.startswith(("/", "%2F", "%2f")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_flower(**_context: Any) -> Iterator[CheckMessage]:
    """Flower's login, which Flower itself reads from the environment."""
    login = os.environ.get("FLOWER_BASIC_AUTH", "").strip()
    user, _, password = login.partition(":")
    if not login:
        yield Caution(
            "FLOWER_BASIC_AUTH is not set here: started with this environment, Flower is open to everybody.",
            hint="Set FLOWER_BASIC_AUTH=user:password where Flower runs, and where this check does.",
            id="cryptocraze.W009",
        )
    elif not user or len(password) < SHORTEST_PASSWORD:
        yield Caution(
            f"FLOWER_BASIC_AUTH has no user, or a password below {SHORTEST_PASSWORD} characters.",
            hint="Set it to user:password with a long random password.",
            id="cryptocraze.W009",
        )


def check_prices(**_context: Any) -> Iterator[CheckMessage]:
    """Prices that real deals may close at."""
    if settings.PRICE_SOURCE in {"simulated", "tape"}:
        yield Caution(
            f"PRICE_SOURCE is {settings.PRICE_SOURCE}: deals open and close at prices that are not the market's.",
            hint="Set PRICE_SOURCE to binance, redis or ccxt.",
            id="cryptocraze.W011",
        )
    if not LEASE_S < settings.PRICE_STALE_AFTER_S <= OLDEST_PRICE_S:
        yield Caution(
            f"PRICE_STALE_AFTER_S is {settings.PRICE_STALE_AFTER_S}: "
            f"below {LEASE_S + 1} every take-over by a standby stops trading, above {OLDEST_PRICE_S} deals open and "
            "close at old prices.",
            hint="Set it to 10.",
            id="cryptocraze.W012",
        )
    if settings.STATIC_ONLY:
        yield Caution(
            "STATIC_ONLY is on: nothing watches the deals.",
            hint="Unset STATIC_ONLY when the workers run.",
            id="cryptocraze.W013",
        )


def check_processes(**_context: Any) -> Iterator[CheckMessage]:
    """What every process is given."""
    if settings.LOG_LEVEL == "DEBUG":
        yield Caution(
            "LOG_LEVEL is DEBUG: libraries write out what they handle, personal data too.",
            hint="Set LOG_LEVEL to INFO.",
            id="cryptocraze.W014",
        )
    if settings.DATABASES["default"].get("OPTIONS", {}).get("pool"):
        yield Caution(
            "DATABASE_POOL is on for this command: were it set for the workers too, each of their processes would keep "
            "a pool of its own.",
            hint="Leave DATABASE_POOL unset: the web process turns it on by itself.",
            id="cryptocraze.W015",
        )


def check_demo_accounts(databases: Sequence[str] | None = None, **_context: Any) -> list[CheckMessage]:
    """Accounts of the demo, whose passwords are public. Asks PostgreSQL, so only with `--database default`."""
    if "default" not in (databases or ()):
        return []
    users = get_user_model().objects.filter(username__in=PUBLIC_LOGINS, is_active=True).order_by("username")
    known = [user for user in users if check_password(PUBLIC_LOGINS[user.get_username()], user.password)]
    if not known:
        return []
    return [
        Caution(
            f"Users {', '.join(str(user.pk) for user in known)} still have the demo's public passwords.",
            hint="Give them other passwords (manage.py changepassword) or deactivate them.",
            id="cryptocraze.W010",
        )
    ]
