"""Settings from the environment: what is accepted, and the one line that names what is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from servers import PROJECT

from cryptocraze import env

DATABASE = "postgresql://user:secret@db:5432/name"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server named, and a data folder of the test's own."""
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "WEB_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CRYPTOCRAZE_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize("value", ["true", "Yes", "on", "1"])
def test_a_flag_says_yes_in_several_words(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STATIC_ONLY", value)
    assert env.flag("STATIC_ONLY", default=False) is True


def test_a_flag_that_is_no_truth_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATIC_ONLY", "maybe")
    with pytest.raises(env.SettingError, match="STATIC_ONLY must be true or false, not 'maybe'"):
        env.flag("STATIC_ONLY", default=False)


@pytest.mark.parametrize("value", ["0", "65", "five", "-1", "4.5", "٣"])
def test_a_number_outside_its_range_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", value)
    with pytest.raises(env.SettingError, match="WORKER_CONCURRENCY must be a whole number from 1 to 64"):
        env.number("WORKER_CONCURRENCY", 5, least=1, most=64)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", " ")
    assert env.number("WORKER_CONCURRENCY", 5, least=1, most=64) == 5


@pytest.mark.parametrize("value", ["short", "long enough, but with blanks"])
def test_a_token_that_is_easily_guessed_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("METRICS_TOKEN", value)
    with pytest.raises(env.SettingError, match="METRICS_TOKEN must have at least 20 characters") as refused:
        env.token("METRICS_TOKEN")
    assert value not in str(refused.value)
    monkeypatch.setenv("METRICS_TOKEN", "")
    assert env.token("METRICS_TOKEN") == ""
    monkeypatch.setenv("METRICS_TOKEN", "t" * 20)
    assert env.token("METRICS_TOKEN") == "t" * 20


def test_words_come_in_order_without_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMBOLS", "BTCUSDT,ETHUSDT  BTCUSDT")
    assert env.words("SYMBOLS", "") == ["BTCUSDT", "ETHUSDT"]


def test_each_web_port_has_data_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYPTOCRAZE_DATA_DIR")
    assert env.data_dir() == PROJECT / ".data"
    monkeypatch.setenv("WEB_PORT", "8001")
    assert env.data_dir() == PROJECT / ".data" / "port-8001"


def test_a_missing_database_is_named_with_what_to_do() -> None:
    with pytest.raises(env.SettingError, match="DATABASE_URL is not set and no embedded servers run: `make demo`"):
        env.addresses()


def test_a_missing_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    with pytest.raises(env.SettingError, match=r"REDIS_URL \(or REDIS_HOST\) is not set"):
        env.addresses()


def test_redis_parts_make_an_address_and_the_password_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "cache", "PORT": "6380", "PASSWORD": "a/b@c:d", "DB": "3"}.items():
        monkeypatch.setenv(f"REDIS_{name}", value)
    assert env.redis_url() == "redis://:a%2Fb%40c%3Ad@cache:6380/3"


@pytest.mark.parametrize("url", ["mysql://db/name", "sqlite:///x", "db"])
def test_a_database_that_is_no_postgresql_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("REDIS_URL", "redis://cache/0")
    with pytest.raises(env.SettingError, match="DATABASE_URL must begin with postgresql://"):
        env.addresses()


def test_a_redis_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "memcached://cache")
    with pytest.raises(env.SettingError, match="REDIS_URL must begin with redis://"):
        env.redis_url()


def test_addresses_of_embedded_servers_count_while_their_owner_lives_and_not_after(tmp_path: Path) -> None:
    (tmp_path / env.ADDRESS_FILE).write_text(json.dumps({"database_url": DATABASE, "redis_url": "redis://here/0"}))
    with (tmp_path / env.LOCK_FILE).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert env.addresses() == (DATABASE, "redis://here/0")
    with pytest.raises(env.SettingError, match="no embedded servers run"):
        env.addresses()


def test_a_given_address_wins_over_the_embedded_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / env.ADDRESS_FILE).write_text(json.dumps({"database_url": DATABASE}))
    monkeypatch.setenv("REDIS_URL", "redis://mine/0")
    with (tmp_path / env.LOCK_FILE).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert env.addresses() == (DATABASE, "redis://mine/0")


def test_tls_always_verifies_and_names_the_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    monkeypatch.setenv("REDIS_CA_FILE", str(ca_file))
    monkeypatch.setenv("REDIS_URL", "rediss://cache:6380/0")
    query = parse_qs(urlsplit(env.redis_url()).query)
    assert query == {
        "ssl_cert_reqs": ["required"],
        "ssl_check_hostname": ["true"],
        "ssl_ca_certs": [str(ca_file)],
    }
    assert env.broker_url(env.redis_url()) == env.redis_url()


@pytest.mark.parametrize("loose", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"])
@pytest.mark.parametrize("name", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_turning_verification_off_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, loose: str) -> None:
    monkeypatch.setenv(name, f"rediss://cache/0?{loose}")
    with pytest.raises(env.SettingError, match=f"{name} must not turn the certificate check off"):
        env.broker_url(env.redis_url())


def test_a_missing_ca_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_CA_FILE", "/nowhere/ca.pem")
    monkeypatch.setenv("REDIS_URL", "rediss://cache/0")
    with pytest.raises(env.SettingError, match=r"REDIS_CA_FILE is no file: /nowhere/ca\.pem"):
        env.redis_url()


def test_the_broker_is_the_same_redis_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.broker_url("redis://cache/0") == "redis://cache/0"
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://broker//")
    assert env.broker_url("redis://cache/0") == "amqp://broker//"


@pytest.mark.parametrize(
    "command",
    [
        ["manage.py", "check"],
        ["-m", "celery", "-A", "cryptocraze", "worker"],
        ["-m", "celery", "-A", "cryptocraze", "beat"],
        ["-m", "celery", "-A", "cryptocraze", "flower"],
        ["-m", "uvicorn", "cryptocraze.asgi:application"],
        ["-m", "cryptocraze.launch", "run"],
    ],
)
def test_every_program_ends_with_one_line_that_names_the_wrong_setting(command: list[str]) -> None:
    wrong = {"DATABASE_URL": DATABASE, "REDIS_URL": "redis://cache/0", "SECRET_KEY": "x", "WEB_PORT": "zero"}
    wrong |= {"STATIC_ONLY": "perhaps"} if "cryptocraze.launch" not in command else {}
    named = "WEB_PORT" if "cryptocraze.launch" in command else "STATIC_ONLY"
    environ = {**os.environ, **wrong}
    environ.pop("CRYPTOCRAZE_DATA_DIR")
    done = subprocess.run(
        [sys.executable, *command], env=environ, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"cryptocraze: {named} must be ")


SENTINELS = "sentinel://:a%2Fb@s1:26379,s2,[::1]:26380/3?master=ours&sentinel_password=c%2Fd"


def test_an_address_of_sentinels_is_kept_for_redis_and_rewritten_for_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", SENTINELS)
    assert env.redis_url() == SENTINELS
    broker = "sentinel://:a%2Fb@s1:26379/3;sentinel://:a%2Fb@s2:26379/3;sentinel://:a%2Fb@[::1]:26380/3"
    assert env.broker_url(env.redis_url()) == broker
    options = env.broker_sentinel_options(env.redis_url())
    assert (options["master_name"], options["sentinel_kwargs"]["password"]) == ("ours", "c/d")


def test_another_broker_has_no_options_of_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://broker//")
    assert env.broker_sentinel_options(SENTINELS) == {}


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("sentinel://s1:26379/0", r"it does not say \?master=NAME"),
        ("sentinel://s1,:26379/0?master=ours", "a host is missing"),
        ("sentinel://s1/x?master=ours", "the database must be a number, not 'x'"),
        ("sentinel://s1:port/0?master=ours", "Port could not be cast"),
        ("sentinel://s1/0?master=ours&ssl=true", "ssl is no option of a sentinel:// address"),
    ],
)
@pytest.mark.parametrize("name", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_a_wrong_address_of_sentinels_is_named(monkeypatch: pytest.MonkeyPatch, name: str, url: str, what: str) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(env.SettingError, match=f"{name} must look like sentinel://.*: {what}"):
        env.broker_url(env.redis_url())


@pytest.mark.parametrize(
    ("path", "symbols", "what"),
    [
        ("", ["BTCUSDT"], "TAPE_FILE is not set"),
        ("/nowhere/tape.csv", None, "TAPE_FILE is no file: /nowhere/tape.csv"),
        (__file__, ["BTCUSDT", "ETHUSDT"], "SYMBOLS must name the one symbol of TAPE_FILE, not 2"),
    ],
)
def test_a_tape_needs_its_file_and_one_symbol(
    monkeypatch: pytest.MonkeyPatch, path: str, symbols: list[str] | None, what: str
) -> None:
    monkeypatch.setenv("TAPE_FILE", path)
    with pytest.raises(env.SettingError, match=what):
        env.tape_file(symbols)


def test_a_tape_that_is_given_need_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPE_FILE", __file__)
    assert env.tape_file(None) == env.tape_file(["BTCUSDT"]) == __file__
    monkeypatch.delenv("TAPE_FILE")
    assert env.tape_file(None) == ""


def test_quorum_queues_need_rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.queue_type("redis://127.0.0.1:1/0") == "classic"
    monkeypatch.setenv("CELERY_QUEUE_TYPE", "quorum")
    assert env.queue_type("amqps://rabbit:5671//") == "quorum"
    with pytest.raises(env.SettingError, match="CELERY_QUEUE_TYPE=quorum needs RabbitMQ"):
        env.queue_type("redis://127.0.0.1:1/0")
