"""Runs the BullMQ baseline against our servers and reads its figures, the latencies from the same tables as ours."""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from django.db import connection

from bench.errors import Unavailable
from bench.figures import Figure, median, percentile
from bench.load import rung_price
from bench.parts.trigger import SPAN
from bench.peers.installed import BULLMQ, node, output_of
from bench.stage import LATENCIES, Stage
from bench.world import ABOVE_THE_LADDER
from cryptocraze.env import BASE_DIR
from deals.sql import statement

PEER: Final = "bullmq"
CONCURRENCY: Final = (5, 50)
LIMIT_S: Final = 150
PART: Final = 100
"""One in so many orders crosses first: what detection is measured on."""


class Measured(NamedTuple):
    """Of one run: what the mass trigger reached, and the detection's percentiles, ms."""

    closures_per_s: float
    p50_ms: float
    p99_ms: float


def run(stage: Stage, sizes: tuple[int, ...], seconds: int) -> dict[tuple[int, int], Measured]:
    """Each size at each concurrency. Raises Unavailable."""
    program = node()
    return {
        (orders, concurrency): _run_one(stage, program, orders, concurrency, seconds)
        for orders in sizes
        for concurrency in CONCURRENCY
    }


def _run_one(stage: Stage, program: str, orders: int, concurrency: int, seconds: int) -> Measured:
    world = stage.world
    world.reset()
    world.symbols = world.symbols[:1]
    try:
        world.add_ladders(orders)
    finally:
        world.symbols = stage.options.symbol_names
    stage.say(f"{PEER}: {orders:,} orders, concurrency {concurrency}")
    part = max(1, orders // PART)
    answer = _answer(stage, program, concurrency, seconds, [rung_price(part - 1, 1, orders), ABOVE_THE_LADDER])
    _record_commits()
    first_part = world.column(f"{LATENCIES} ORDER BY deals.received_at, deals.id LIMIT {part}", 0, "tick")
    if answer["some"]["closed"] < part or not first_part:
        raise Unavailable(f"of {part} crossed orders {answer['some']['closed']} were closed within {LIMIT_S} s")
    last = world.one("SELECT max(settlement_id) FROM deals WHERE received_at = (SELECT min(received_at) FROM deals)")
    closed = world.closed() - answer["some"]["closed"]
    if closed <= 0:
        raise Unavailable("the mass trigger closed nothing")
    world.open -= answer["all"]["closed"]
    world.check()
    measured = Measured(closed / world.one(SPAN, last), median(first_part), percentile(first_part, 0.99))
    left = answer["all"]["until"] - answer["all"]["closed"]
    name = f"{orders:,} orders, concurrency {concurrency}"
    steady = answer["steady"]
    stage.figures += [
        Figure(PEER, f"{name}: checks", steady["checksPerS"], "checks/s", note=_cost(steady, orders)),
        Figure(PEER, f"{name}: detection p50", measured.p50_ms, "ms", note=f"{len(first_part)} of them crossed"),
        Figure(PEER, f"{name}: detection p99", measured.p99_ms, "ms"),
        Figure(PEER, f"{name}: mass", measured.closures_per_s, "closures/s", note=f"{left} left open" if left else ""),
    ]
    return measured


def _cost(steady: dict[str, Any], orders: int) -> str:
    share = 100 * steady["cpuS"] / steady["seconds"]
    return f"{orders / 2:,.0f} would be every order every 2 s; node used {share:.0f} % of a core"


def _answer(stage: Stage, program: str, concurrency: int, seconds: int, prices: list[str]) -> dict[str, Any]:
    url = urlsplit(stage.servers.database_url)
    folder, _, port = url.netloc.rpartition("@")[2].rpartition(":")
    env = {
        "PGHOST": unquote(folder),
        "PGPORT": port,
        "PGUSER": unquote(url.username or ""),
        "PGDATABASE": url.path.lstrip("/"),
        "REDIS_URL": os.environ["REDIS_URL"],
        "SQL_DIR": str(BASE_DIR / "deals" / "sql"),
        "CONCURRENCY": str(concurrency),
        "SECONDS": str(seconds),
        "LIMIT_S": str(LIMIT_S),
    }
    with stage.measured(f"{PEER} {concurrency}"):
        said = output_of([program, "baseline.mjs", *prices], BULLMQ, 3 * LIMIT_S + seconds + 60, env)
    answer: dict[str, Any] = json.loads(said)
    return answer


def _record_commits() -> None:
    """What our worker does after each commit, here afterwards for all: the same figure, at no cost to the peer."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(array_agg(id), '{}') FROM settlements")
        cursor.execute(statement("record_commit"), {"ids": cursor.fetchone()[0]})
