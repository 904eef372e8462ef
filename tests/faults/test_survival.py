"""The whole system, broken in every way: what crosses is closed once and nothing else is, soon, to the digit.

`survive` opens deals, breaks something beside them, lets them cross, waits until they are closed, and then has the
oracle compare every deal, balance, posting and notification, the trigger book and `fired` with what must be.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
import pytest
from chaos import faults
from chaos.faults import FAULTS, WAITING, Fault
from chaos.system import SYMBOLS, System, wait
from chaos.world import World
from servers import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.alone, pytest.mark.timeout(400)]

EVERY_TIMEOUT_S = 65
"""Longer than any time-out of ours: the longest is the 60 s after which a message counts as not acknowledged."""
SLACK = 3
"""The promised times are of a machine with nothing else to do."""
WORKER_KILLED_S, STANDBY_FIRES_S, BROKER_BACK_S = 15, 5, 5
HANG_S = 4


class Stopped(NamedTuple):
    """A worker that was stopped in the middle of a settlement, and when."""

    name: str
    pids: list[int]
    at_s: float
    deals: list[int]


@pytest.fixture(scope="module")
def stopped_worker(world: World) -> Iterator[Stopped]:
    """One of the two workers is stopped with deals in its hands and their rows locked, and stays so."""
    world.check()
    deals = world.open_probes()
    with psycopg.connect(world.system.database_url) as holder:
        holder.execute("SELECT 1 FROM deals WHERE id = %s FOR UPDATE", [deals[2]])
        world.feed.go({symbol: world.feed.price(symbol) + 2 for symbol in SYMBOLS})
        wait(lambda: world.system.sql(WAITING), 60, "a worker is in the middle of a settlement")
        name = str(world.system.sql(WAITING)[0][0]).removeprefix("cryptocraze-")
        pids = world.system.pids(name)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    world.stopped.add(name)
    yield Stopped(name, pids, time.monotonic(), deals)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def of_the_other(stopped: Stopped, name: str, kill: Callable[[System, str], list[int]]) -> Fault:
    """A kill that leaves the stopped worker alone."""
    other = next(worker for worker in ("worker", "worker-b") if worker != stopped.name)
    return Fault(name, lambda system, _rng: faults.send(kill(system, other)), 1, "kill", amid=True)


# --- while one of two workers stands still ----------------------------------------------------------------------


def test_what_a_stopped_worker_holds_is_closed_by_the_other_one(world: World, stopped_worker: Stopped) -> None:
    def closed() -> bool:
        query = "SELECT count(*) FROM deals WHERE id = ANY(%s) AND status = 'closed'"
        return bool(world.system.sql(query, stopped_worker.deals)[0][0] == len(stopped_worker.deals))

    # PostgreSQL ends its session after 20 s in the middle of a transaction; then the sweep sends again.
    wait(closed, 90, "the other worker closes them")
    world.check()


def test_a_killed_worker_whose_twin_stands_still_is_back_in_time(world: World, stopped_worker: Stopped) -> None:
    killed = of_the_other(stopped_worker, "worker killed", lambda system, name: system.heads(name))
    assert world.survive(killed) < WORKER_KILLED_S * SLACK


def test_a_killed_child_of_a_worker_leaves_its_message_to_the_next_one(world: World, stopped_worker: Stopped) -> None:
    killed = of_the_other(stopped_worker, "child killed", lambda system, name: system.children(name))
    assert world.survive(killed) < WORKER_KILLED_S * SLACK


@pytest.mark.usefixtures("stopped_worker")
@pytest.mark.parametrize(
    "name",
    ["prices killed", "prices stopped for 8 s", "beat killed", "sweeper killed", "web killed", "connections cut"],
)
def test_the_system_survives(world: World, name: str) -> None:
    recovery_s = world.survive(FAULTS[name])
    if name.startswith("prices"):
        assert recovery_s < STANDBY_FIRES_S * SLACK


@pytest.mark.usefixtures("stopped_worker")
@pytest.mark.parametrize(
    "name",
    [name for name, fault in FAULTS.items() if fault.group == "restart"],
    ids=lambda name: name.replace(" ", "_"),
)
def test_a_server_that_was_killed_comes_back_to_a_system_that_goes_on(world: World, name: str) -> None:
    world.survive(FAULTS[name])


@pytest.mark.usefixtures("stopped_worker")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("Redis hangs", faults.hang_redis(HANG_S), 1, "break", from_mending=True),
        Fault("Redis is full", faults.fill_redis(HANG_S), 1, "break", from_mending=True),
    ],
    ids=lambda fault: fault.name.replace(" ", "_"),
)
def test_the_backlog_flows_when_the_broker_is_back(world: World, fault: Fault) -> None:
    assert world.survive(fault) < BROKER_BACK_S * SLACK


@pytest.mark.usefixtures("stopped_worker")
def test_a_full_disk_is_no_bad_data_and_ends_in_no_dead_letter(world: World) -> None:
    world.survive(Fault("disk full", faults.fill_disk(HANG_S), 1, "break", from_mending=True))
    assert world.system.sql("SELECT count(*) FROM dead_letters") == [(0,)]


def test_a_worker_that_was_stopped_for_longer_than_every_time_out_does_nothing_twice(
    world: World, stopped_worker: Stopped
) -> None:
    wait_until(
        lambda: time.monotonic() > stopped_worker.at_s + EVERY_TIMEOUT_S, EVERY_TIMEOUT_S + 1, "every time-out is over"
    )
    world.check()
    for pid in stopped_worker.pids:
        os.kill(pid, signal.SIGCONT)
    world.stopped.clear()
    world.survive(FAULTS["beat killed"])  # it works again, beside the other one
    events = "SELECT count(*) FROM deal_events WHERE kind = 'closed' AND deal_id = ANY(%s)"
    assert world.system.sql(events, stopped_worker.deals) == [(len(stopped_worker.deals),)]


def test_a_check_mends_what_is_broken_before_it_waits_for_traders_and_prices(world: World) -> None:
    """Of the fault tests themselves: else nobody would, and all would wait for each other."""
    world.feed.walk()
    world.traders.work()
    world.break_now(Fault("Redis hangs", faults.hang_redis(HANG_S), 1, "break"))
    began = time.monotonic()
    world.check()
    assert time.monotonic() - began < 60


# --- with both workers ------------------------------------------------------------------------------------------


def test_two_of_everything_close_what_is_opened_and_walked_into_while_they_die(world: World) -> None:
    """Traders open, prices walk, and something is killed every second, without waiting in between."""
    before = world.check().deals
    world.feed.walk()
    world.traders.work()
    for name in ("worker child killed", "prices killed", "web killed", "every worker killed", "beat killed"):
        world.break_now(FAULTS[name])
        time.sleep(1)
    findings = world.check()
    assert findings.deals > before + 5
    assert findings.detectors["tick"] > 0
