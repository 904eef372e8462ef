"""Reads settings from the environment and says clearly which one is wrong. Starts nothing, connects to nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from workers import sentinel

BASE_DIR = Path(__file__).resolve().parent.parent
DEFAULT_WEB_PORT = 8000
# Files of the data folder, written by the embedded servers' owner.
ADDRESS_FILE, SECRET_KEY_FILE, LOCK_FILE = "servers.json", "secret_key", "owner"


class SettingError(SystemExit):
    """A setting is missing or wrong; the message is one line that names it and says what to do.

    It ends the process wherever settings are read first (manage.py, celery, flower, uvicorn): one line, exit code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"cryptocraze: {message}")


class Addresses(NamedTuple):
    """Where the servers are: URLs as libpq and redis-py read them."""

    database_url: str
    redis_url: str


def text(name: str, default: str | None = None) -> str:
    """A setting as text; an empty variable counts as unset. Raises SettingError when it is missing without default."""
    value = os.environ.get(name, "").strip() or default
    if value is None:
        raise SettingError(f"{name} is not set")
    return value


def flag(name: str, *, default: bool) -> bool:
    """A setting as a truth value: true/false, yes/no, on/off, 1/0."""
    value = text(name, str(default)).lower()
    if value in {"true", "yes", "on", "1"}:
        return True
    if value in {"false", "no", "off", "0"}:
        return False
    raise SettingError(f"{name} must be true or false, not {value!r}")


def number(name: str, default: int, *, least: int, most: int) -> int:
    """A setting as a whole number within [least, most]."""
    value = text(name, str(default))
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise SettingError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def rate(name: str, default: str) -> str:
    """A setting like `600/min`: a number of requests for a second, minute, hour or day."""
    value = text(name, default)
    if re.fullmatch(r"[1-9][0-9]{0,8}/(s|sec|m|min|h|hour|d|day)", value, re.ASCII) is None:
        raise SettingError(f"{name} must be a rate such as 600/min, not {value!r}")
    return value


def token(name: str) -> str:
    """A secret of at least 20 characters without blanks, or nothing. Raises SettingError without repeating it."""
    value = text(name, "")
    if value and re.fullmatch(r"[!-~]{20,}", value) is None:
        raise SettingError(f"{name} must have at least 20 characters and no blanks: `openssl rand -hex 20` makes one")
    return value


def words(name: str, default: str) -> list[str]:
    """A setting as a list of words separated by commas or spaces, without repeats, in order."""
    return list(dict.fromkeys(text(name, default).replace(",", " ").split()))


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    """A setting that is one of a few words."""
    value = text(name, default)
    if value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def tape_file(symbols: list[str] | None) -> str:
    """TAPE_FILE, what a price source `tape` reads; `symbols` are those that it is to have, None with another source."""
    path = text("TAPE_FILE", "")
    if path and not Path(path).is_file():
        raise SettingError(f"TAPE_FILE is no file: {path}")
    if symbols is not None and not path:
        raise SettingError("TAPE_FILE is not set: PRICE_SOURCE=tape reads its trades there")
    if symbols is not None and len(symbols) != 1:
        raise SettingError(f"SYMBOLS must name the one symbol of TAPE_FILE, not {len(symbols)}")
    return path


def data_dir() -> Path:
    """The folder of the embedded servers' data: one per web port, so that two systems run side by side."""
    given = os.environ.get("CRYPTOCRAZE_DATA_DIR", "").strip()
    if given:
        return Path(given).expanduser().resolve()
    port = number("WEB_PORT", DEFAULT_WEB_PORT, least=1, most=65535)
    base = BASE_DIR / ".data"
    return base if port == DEFAULT_WEB_PORT else base / f"port-{port}"


def secret_key() -> str:
    """Django's secret key: SECRET_KEY, else the one that the embedded servers' start wrote under the data folder."""
    given = os.environ.get("SECRET_KEY", "").strip()
    if given:
        return given
    try:
        return (data_dir() / SECRET_KEY_FILE).read_text().strip()
    except FileNotFoundError:
        raise SettingError("SECRET_KEY is not set: give it a long random text") from None


def addresses() -> Addresses:
    """Where PostgreSQL and Redis are: from the environment, else from the embedded servers' address file."""
    database_url = os.environ.get("DATABASE_URL", "").strip()
    redis = redis_url()
    if not (database_url and redis):
        embedded = _embedded_addresses()
        database_url = database_url or embedded.get("database_url", "")
        redis = redis or embedded.get("redis_url", "")
    for name, url in (("DATABASE_URL", database_url), ("REDIS_URL (or REDIS_HOST)", redis)):
        if not url:
            raise SettingError(f"{name} is not set and no embedded servers run: `make demo` or `make run` starts them")
    return Addresses(_checked_database(database_url), redis)


def servers_known() -> bool:
    """Whether settings or running embedded servers say where PostgreSQL and Redis are."""
    try:
        addresses()
    except SettingError:
        return any(os.environ.get(name) for name in ("DATABASE_URL", "REDIS_URL", "REDIS_HOST"))
    return True


def _embedded_addresses() -> dict[str, str]:
    """What runs for the data folder. A file that its owner left behind when it was killed counts as none."""
    try:
        with (data_dir() / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return {}
    except BlockingIOError:  # its owner lives
        with contextlib.suppress(FileNotFoundError):
            return dict(json.loads((data_dir() / ADDRESS_FILE).read_text()))
    return {}


def _checked_database(url: str) -> str:
    if urlsplit(url).scheme not in {"postgres", "postgresql"}:
        raise SettingError("DATABASE_URL must begin with postgresql://")
    return url


def redis_url() -> str:
    """Where the environment says Redis is: REDIS_URL, else REDIS_HOST and its companions, else an empty text."""
    url = os.environ.get("REDIS_URL", "").strip()
    if url:
        return _checked_redis("REDIS_URL", url)
    host = os.environ.get("REDIS_HOST", "").strip()
    if not host:
        return ""
    port = number("REDIS_PORT", 6379, least=1, most=65535)
    db = number("REDIS_DB", 0, least=0, most=1_000_000)
    password = os.environ.get("REDIS_PASSWORD", "")
    login = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{host}:{port}/{db}"


def broker_url(redis: str) -> str:
    """Celery's broker: CELERY_BROKER_URL, else the same Redis as everything."""
    url = os.environ.get("CELERY_BROKER_URL", "").strip() or redis
    if sentinel.is_sentinel(url):
        return _checked_sentinel("CELERY_BROKER_URL", url).for_celery()
    if urlsplit(url).scheme == "unix":
        raise SettingError("CELERY_BROKER_URL is not set, and Celery cannot use a unix:// address: set it to a TCP one")
    return _with_verification("CELERY_BROKER_URL", url) if urlsplit(url).scheme == "rediss" else url


def broker_sentinel_options(redis: str) -> dict[str, Any]:
    """Transport options for a broker behind Sentinels; none for any other."""
    url = os.environ.get("CELERY_BROKER_URL", "").strip() or redis
    if not sentinel.is_sentinel(url):
        return {}
    address = _checked_sentinel("CELERY_BROKER_URL", url)
    return {"master_name": address.master, "sentinel_kwargs": address.sentinel_options}


def _checked_sentinel(name: str, url: str) -> sentinel.Address:
    try:
        return sentinel.parse(url)
    except ValueError as error:
        shape = "sentinel://:password@host:26379,host:26379/0?master=NAME"
        raise SettingError(f"{name} must look like {shape}: {error}") from None


def is_rabbitmq(url: str) -> bool:
    """Whether the address is one of AMQP."""
    return urlsplit(url).scheme in {"amqp", "amqps", "pyamqp"}


def queue_type(broker_url: str) -> str:
    """CELERY_QUEUE_TYPE: `classic`, or `quorum` for queues that RabbitMQ keeps on several machines."""
    chosen = choice("CELERY_QUEUE_TYPE", "classic", ("classic", "quorum"))
    if chosen == "quorum" and not is_rabbitmq(broker_url):
        raise SettingError("CELERY_QUEUE_TYPE=quorum needs RabbitMQ: set CELERY_BROKER_URL to an amqp:// address")
    return chosen


def _checked_redis(name: str, url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme == sentinel.SCHEME:
        _checked_sentinel(name, url)
        return url
    if scheme not in {"redis", "rediss", "unix"}:
        raise SettingError(f"{name} must begin with redis://, rediss://, unix:// or sentinel://")
    return _with_verification(name, url) if scheme == "rediss" else url


def _with_verification(name: str, url: str) -> str:
    """A TLS address with the server's certificate and host name always checked, against REDIS_CA_FILE if that is set.

    In the address itself, because redis-py, Django's cache, Celery and Flower all read it there.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (
        query.get("ssl_cert_reqs", "required") != "required"
        or query.get("ssl_check_hostname", "true").lower() != "true"
    ):
        raise SettingError(f"{name} must not turn the certificate check off: give the server's CA in REDIS_CA_FILE")
    query |= {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
    if ca_file := os.environ.get("REDIS_CA_FILE", "").strip():
        if not Path(ca_file).is_file():
            raise SettingError(f"REDIS_CA_FILE is no file: {ca_file}")
        query["ssl_ca_certs"] = ca_file
    return urlunsplit(parts._replace(query=urlencode(query)))
