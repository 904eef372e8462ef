"""`python -m bench.prices SYMBOL,…`: the prices process with the bench's market instead of an exchange.

The same engine as `manage.py run_prices` starts. Reads commands from standard input and answers on standard output, one
JSON object a line; ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import django
import uvloop

from bench.market import Market


async def run(symbols: list[str]) -> None:
    """Drive these symbols until told to end."""
    from workers.drivers import next_token
    from workers.engine import PriceEngine
    from workers.garbage import collect_rarely

    engine = PriceEngine(symbols, token=await asyncio.to_thread(next_token))
    market = Market(symbols, answer=answer, backlog=lambda: len(engine.backlog), drained=engine.writer.flush)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    collect_rarely()
    reading = asyncio.create_task(read_commands(market, engine.stop))
    try:
        await engine.run(market)
    finally:
        reading.cancel()


async def read_commands(market: Market, stop: Callable[[], None]) -> None:
    """Pass on what the bench says, one JSON object a line, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        market.commands.put_nowait(json.loads(line))
    stop()  # the bench has ended


def answer(facts: dict[str, Any]) -> None:
    """Answer the bench."""
    sys.stdout.write(json.dumps(facts, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
    django.setup()
    uvloop.run(run(sys.argv[1].split(",")))
