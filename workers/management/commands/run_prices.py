"""`manage.py run_prices`: the prices process."""

from __future__ import annotations

import asyncio
import signal
from argparse import ArgumentParser
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from workers.clock import WALL_CLOCK
from workers.drivers import next_token
from workers.engine import PriceEngine
from workers.garbage import collect_rarely
from workers.sources import SOURCE_NAMES, SourceError, build_source


class Command(BaseCommand):
    help = "Read a price stream, keep the prices, and fire deals whose Take Profit or Stop Loss is reached."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", default=settings.PRICE_SOURCE, choices=SOURCE_NAMES)
        parser.add_argument("--symbols", default=",".join(settings.SYMBOLS), help="comma-separated; default: SYMBOLS")

    def handle(self, *_args: Any, **options: Any) -> None:
        if settings.STATIC_ONLY:
            raise CommandError("STATIC_ONLY is true: this process is turned off.")
        symbols = [symbol.strip().upper() for symbol in options["symbols"].split(",")]
        unknown = sorted(set(symbols) - set(settings.SYMBOLS))
        if unknown:
            raise CommandError(f"SYMBOLS does not list {', '.join(unknown)}.")
        try:
            uvloop.run(_run(options["source"], symbols))
        except SourceError as error:
            raise CommandError(str(error)) from None


async def _run(source_name: str, symbols: list[str]) -> None:
    source = build_source(
        source_name,
        symbols,
        binance_url=settings.BINANCE_WS_URL,
        binance_stream=settings.BINANCE_STREAM,
        redis_url=settings.REDIS_URL,
        redis_key_prefix=settings.KEY_PREFIX,
        ccxt_exchange=settings.CCXT_EXCHANGE,
        tape_path=settings.TAPE_FILE,
        tape_speed=settings.TAPE_SPEED,
        tape_clock=WALL_CLOCK,
        seed=settings.SIMULATED_SEED,
        ticks_per_s=settings.SIMULATED_TICKS_PER_S,
    )
    token = await asyncio.to_thread(next_token)
    # What another service publishes must not be published again.
    engine = PriceEngine(symbols, token=token, publish=source_name != "redis")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    collect_rarely()
    await engine.run(source)
