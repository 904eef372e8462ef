"""Signs of life: every process gives them while it works, and loses them when it ends, hangs or is cut off."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from market import BTC, Market
from servers import Process, Valkey, wait_until

from workers import heartbeats, keys
from workers.heartbeats import Beat, Sign, SignThread, read_beats
from workers.redis_client import connect

WORKER_CUT_OFF = 30.0


def beats_of(role: str) -> list[Beat]:
    return [beat for beat in read_beats() if beat.role == role]


def test_a_sign_is_read_as_it_was_written_and_ends_by_itself() -> None:
    Sign("web", "a:b").write({"listeners": 3})
    [beat] = read_beats()
    assert (beat.role, beat.name, beat.pid, beat.facts) == ("web", "a:b", os.getpid(), {"listeners": 3})
    assert 0 < connect().pttl(keys.heartbeat("web", "a:b")) <= heartbeats.TTL_MS


def test_an_erased_sign_is_gone_and_the_others_stay() -> None:
    one, other = Sign("web", "one"), Sign("web", "other")
    one.write({})
    other.write({})
    one.erase()
    assert [beat.name for beat in read_beats()] == ["other"]


def test_a_process_whose_work_stands_still_writes_no_sign() -> None:
    working = [True]
    thread = SignThread(Sign("beat", "test"), facts=dict, alive=lambda: working[0])
    thread.start()
    wait_until(lambda: beats_of("beat"), 10)
    written_ms = beats_of("beat")[0].at_ms
    working[0] = False
    wait_until(lambda: connect().pttl(keys.heartbeat("beat", "test")) < heartbeats.TTL_MS - 5_000, 20)
    assert beats_of("beat")[0].at_ms - written_ms <= 2 * heartbeats.EVERY_S * 1000
    thread.stop()
    assert beats_of("beat") == []


@pytest.mark.django_db(transaction=True)
def test_a_worker_shows_its_queues_and_is_gone_after_its_end(celery_worker: Callable[..., Process]) -> None:
    worker = celery_worker(queues="closures,default", concurrency=2)
    wait_until(lambda: beats_of("worker"), 20)
    [beat] = beats_of("worker")
    assert beat.pid == worker.pid
    assert beat.facts == {"queues": ["closures", "default"], "concurrency": 2, "active": 0}
    worker.signal(signal.SIGTERM)
    wait_until(lambda: not beats_of("worker"), 30)


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_loses_its_broker_loses_its_sign_and_gets_it_back(
    celery_worker: Callable[..., Process], valkey: Valkey
) -> None:
    worker = celery_worker(env={"CELERY_BROKER_URL": valkey.url})
    wait_until(lambda: beats_of("worker"), 20)
    valkey.kill()
    wait_until(lambda: not beats_of("worker"), WORKER_CUT_OFF)
    valkey.start()
    wait_until(lambda: beats_of("worker"), WORKER_CUT_OFF)
    assert worker.alive


@pytest.mark.django_db(transaction=True)
def test_beat_and_the_prices_process_give_signs_until_they_stand_still(
    start_process: Callable[..., Process], tmp_path: Path
) -> None:
    beat, other_beat = (start_process("celery", "beat", "--pidfile=") for _ in range(2))
    prices = start_process("manage.py", "run_prices", "--source", "simulated", "--symbols", "BTCUSDT,ETHUSDT")
    wait_until(lambda: beats_of("beat") and beats_of("prices"), 30)
    wait_until(lambda: beats_of("prices")[0].facts["accepted"] > 0, 20)
    facts = beats_of("prices")[0].facts
    assert facts["source"] == "simulated"
    assert facts["held"] == ["BTCUSDT", "ETHUSDT"]
    assert 0 <= facts["feedAgeMs"] < 10_000
    wait_until(lambda: {sign.pid for sign in beats_of("beat")} == {beat.pid, other_beat.pid}, 30)
    beat.signal(signal.SIGSTOP)
    prices.stop()
    assert beats_of("prices") == []
    wait_until(lambda: [sign.pid for sign in beats_of("beat")] == [other_beat.pid], 25, "one of two has fallen silent")


def test_ticks_are_counted_in_redis_by_symbol(market: Market, redis_client: redis.Redis) -> None:
    market.tick("100", "101", "102")
    market.tick("103")
    assert redis_client.hget(keys.price(BTC), "ticks") == "4"


@pytest.mark.django_db(transaction=True)
def test_the_sweep_says_when_it_ran_last(celery_worker: Callable[..., Process], redis_client: redis.Redis) -> None:
    from workers.tasks import sweep_task

    celery_worker()
    sweep_task.apply_async(retry=False)
    wait_until(lambda: redis_client.exists(keys.last_sweep()), 20)
    said = redis_client.hgetall(keys.last_sweep())
    assert {"at", "found", "resent", "armed", "expired", "duration_ms"} <= said.keys()
    assert said["found"] == "0"
