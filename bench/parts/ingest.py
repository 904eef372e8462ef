"""ingest: ticks through the whole prices process, as fast as they go and one at a time."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from bench.errors import Trouble
from bench.figures import Figure, median, percentile
from bench.market import BAND
from bench.programs import Prices
from bench.stage import Stage, Usage
from workers import keys

WATCH_S: Final = 10.0
TAIL_S: Final = 0.5


class Heard(NamedTuple):
    """A published price: when it arrived here, on the machine's monotonic clock."""

    symbol: str
    price: str
    at_ns: int


def run(stage: Stage) -> None:
    """The rate of a flood; the latency of single ticks at the usual rate, until another process has the price."""
    stage.world.share()
    with stage.scene():
        prices = stage.programs.start_prices(stage.world.symbols)
        flood(stage, [prices], max(1, stage.options.ticks // 20), "warm-up")
        rate, usage = flood(stage, [prices], stage.options.ticks, "ingest flood")
        stage.world.rewrite_file()
        latencies = _watch(stage, prices)
    flooded = f"flood at {stage.world.open:,} armed"
    busy, many = usage.text(stage.cores), f"{len(latencies):,} ticks at {stage.options.rate:,}/s"
    stage.figures += [
        Figure("ingest", flooded, rate, "ticks/s", 30_000, 100_000, more_is_better=True, note=busy),
        Figure("ingest", "one tick, p99", percentile(latencies, 0.99), "ms", 5, 2, note=many),
        Figure("ingest", "one tick, p50", median(latencies), "ms"),
    ]


def flood(stage: Stage, engines: Sequence[Prices], ticks: int, name: str) -> tuple[float, Usage]:
    """So many ticks as fast as the engines take them; ticks a second, all of them in Redis. Raises Trouble if not."""
    stage.say(f"{name}: {ticks:,} ticks")
    before = stage.world.ticks()
    with stage.measured(name) as usage:
        for engine in engines:
            engine.tell("flood", ticks=ticks // len(engines))
        seconds = max(engine.answer()["seconds"] for engine in engines)
    sent = ticks // len(engines) * len(engines)
    if (taken := stage.world.ticks() - before) != sent:
        raise Trouble(f"Redis has taken {taken} of {sent} ticks")
    return sent / seconds, usage


def _watch(stage: Stage, prices: Prices) -> list[float]:
    """Single ticks at the usual rate: from the source's hand to a subscriber in another process, ms."""
    heard: list[Heard] = []
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(stage, heard, ended), daemon=True)
    listener.start()
    prices.ask("pace", per_s=stage.options.rate)
    time.sleep(1)
    prices.ask("note")
    time.sleep(min(WATCH_S, stage.options.seconds))
    noted = prices.ask("noted")["noted"]
    prices.ask("pace", per_s=0)
    time.sleep(TAIL_S)
    ended.set()
    listener.join()
    return one_tick_ms(noted, heard, stage.world.symbols)


def _listen(stage: Stage, heard: list[Heard], ended: threading.Event) -> None:
    redis: Any = stage.world.redis
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(*(keys.price_update(symbol) for symbol in stage.world.symbols))
    while not ended.is_set():
        message: Any = pubsub.get_message(timeout=0.1)
        if message is not None:
            at_ns = time.monotonic_ns()
            update = json.loads(message["data"])
            heard.append(Heard(update["symbol"], update["price"], at_ns))
    pubsub.close()


def one_tick_ms(noted: Iterable[Sequence[int]], heard: Iterable[Heard], symbols: Sequence[str]) -> list[float]:
    """How long each noted tick (number, monotonic ns) took until its price, or a later one of its symbol, was heard.

    Prices that come close together are published as one: the last. Ticks that were never heard count as infinite.
    """
    given: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, at_ns in noted:
        turn, symbol = divmod(number, len(symbols))
        given[symbols[symbol]].append((BAND[turn % len(BAND)], at_ns))
    done: Counter[str] = Counter()
    taken: list[float] = []
    for message in heard:
        waiting = given[message.symbol][done[message.symbol] :][: len(BAND)]
        for count, (price, given_ns) in enumerate(waiting, start=1):
            if given_ns > message.at_ns:
                break  # it is a price from before the notes
            if price == message.price:
                taken += [(message.at_ns - at_ns) / 1e6 for _price, at_ns in waiting[:count]]
                done[message.symbol] += count
                break
    lost = sum(len(ticks) - done[symbol] for symbol, ticks in given.items())
    return taken + [math.inf] * lost
