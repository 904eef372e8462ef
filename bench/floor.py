"""`python -m bench.floor SYMBOLS CALL_EVERY_S`: the bench's market in a process that does nothing with its ticks.

What it costs to be woken by each tick, on this machine and in this language; and, with CALL_EVERY_S above 0, to send
Redis a PING so often beside it. No prices process of this kind can cost less.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NoReturn

import django
import uvloop

from bench.market import Market
from bench.prices import answer, read_commands


async def run(symbols: list[str], call_every_s: float) -> None:
    """Take ticks until told to end."""
    ended = asyncio.Event()
    market = Market(symbols, answer=answer, backlog=lambda: 0, drained=_nothing)
    work = [read_commands(market, ended.set), _take(market)]
    if call_every_s:
        work.append(_call(call_every_s))
    tasks = [asyncio.create_task(each) for each in work]
    await ended.wait()
    for task in tasks:
        task.cancel()


async def _take(market: Market) -> None:
    async for _tick in market.ticks():
        pass


async def _call(every_s: float) -> NoReturn:
    from workers.redis_client import connect_async

    async with connect_async() as redis:
        while True:
            await redis.ping()
            await asyncio.sleep(every_s)


async def _nothing() -> None:
    pass


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
    django.setup()
    uvloop.run(run(sys.argv[1].split(","), float(sys.argv[2])))
