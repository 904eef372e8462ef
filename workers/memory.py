"""What the prices process remembers of what it wrote, so that a restarted Redis gets it back, and the sweep goes on
without Redis.

The prices of the last 60 s, and what has fired until it is settled. What is lost here and in Redis at the same moment
closes only if the price crosses again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final, NamedTuple

import structlog
from redis.asyncio import Redis

from workers import keys
from workers.book import Fired
from workers.dispatch import batches
from workers.prices import Price, token_of
from workers.redis_client import CLEAR_FIRED, PUT_BACK

log = structlog.get_logger(__name__)

KEEP_MS: Final = 60_000
KEEP_PRICES: Final = 20_000
MOST_BUCKETS: Final = 2_000


class _Bucket(NamedTuple):
    first: Price
    low: Price
    high: Price


class Memory:
    """Belongs to one engine; not thread-safe. Knows nothing of deals but what fired."""

    def __init__(self) -> None:
        self._prices: dict[str, deque[Price]] = defaultdict(lambda: deque(maxlen=KEEP_PRICES))
        self._before: dict[str, Price] = {}
        self.unsettled: dict[int, Fired] = {}
        self._finished: dict[int, int] = {}

    def hold(self, fired: Iterable[Fired]) -> None:
        """Remember what has fired, until it is settled."""
        self.unsettled.update((item.deal_id, item) for item in fired)

    def written(self, prices: Iterable[Price]) -> None:
        """Remember what Redis has confirmed, or what was swept without it."""
        for price in prices:
            kept = self._prices[price.symbol]
            kept.append(price)
            while kept[0].received_ms < price.received_ms - KEEP_MS:
                self._before[price.symbol] = kept.popleft()

    def holds(self, fired: Fired) -> bool:
        """Whether it is remembered as unsettled, at this version or a later one."""
        held = self.unsettled.get(fired.deal_id)
        return held is not None and held.version >= fired.version

    def finish(self, fired: Iterable[Fired]) -> None:
        """Forget what was settled without Redis, but for that it must leave `fired` there."""
        for item in fired:
            self._finished[item.deal_id] = max(item.version, self._finished.get(item.deal_id, 0))
            held = self.unsettled.get(item.deal_id)
            if held is not None and held.version <= item.version:
                del self.unsettled[item.deal_id]

    def prices(self, symbols: Iterable[str]) -> dict[str, list[Price]]:
        """The remembered prices of these symbols, oldest first.

        With the last one before them: whoever has seen that one has missed nothing.
        """
        return {
            symbol: [*([self._before[symbol]] if symbol in self._before else []), *self._prices[symbol]]
            for symbol in symbols
            if symbol in self._prices
        }

    async def forget_settled(self, redis: Redis, lease: str, owner: str) -> None:
        """Drop what has left `fired`: PostgreSQL has settled it. Only right while Redis has forgotten nothing: then it
        still knows the lease, a key, as its owner's.
        """
        ids = list(self.unsettled)
        if not ids:
            return
        async with redis.pipeline(transaction=True) as pipe:
            pipe.get(lease)
            pipe.hmget(keys.fired(), [str(deal_id) for deal_id in ids])
            holder, entries = await pipe.execute()
        if holder != owner:
            return
        for deal_id, entry in zip(ids, entries, strict=True):
            if entry is None:
                self.unsettled.pop(deal_id, None)

    async def put_back(self, redis: Redis) -> list[Fired]:
        """Write to Redis what it has forgotten, and take out what was settled without it.

        Prices go under the token that they were numbered with: those of a process that has lost its symbols since never
        stand in the way of those of the one that drives them, in whichever order the two come. Returns what has fired
        and may have to be sent again. Doing it twice changes nothing.
        """
        finished = list(self._finished.items())
        if finished:
            args: list[str | int] = [value for pair in finished for value in pair]
            await CLEAR_FIRED.run_async(redis, [keys.fired(), keys.fired_at()], args)
            for deal_id, _version in finished:
                del self._finished[deal_id]
        for symbol, prices in self._prices.items():
            args = [token_of(prices[-1].seq), *_last_price(prices[-1])]
            for bucket in _buckets(prices):
                args += [bucket.first.seq, bucket.low.price, bucket.high.price, bucket.first.received_ms]
            buckets = await PUT_BACK.run_async(redis, [keys.price(symbol), keys.window(symbol)], args)
            if buckets:
                log.warning("prices.put_back", symbol=symbol, buckets=buckets)
        unsettled = list(self.unsettled.values())
        for batch in batches(unsettled):
            async with redis.pipeline(transaction=True) as pipe:
                for fired in batch:
                    pipe.hsetnx(keys.fired(), str(fired.deal_id), fired.entry)
                pipe.zadd(keys.fired_at(), {str(fired.deal_id): fired.fired_ms for fired in batch}, nx=True)
                await pipe.execute()
        return unsettled


def _last_price(price: Price) -> list[str | int]:
    trade_id = "" if price.trade_id is None else price.trade_id
    return [price.price, price.at_ms, trade_id, price.seq, price.received_ms]


def _buckets(prices: deque[Price]) -> Iterator[_Bucket]:
    """A bucket for each price, so that every deal's own beginning fits; a few prices each where there are very many."""
    size = -(-len(prices) // MOST_BUCKETS)
    kept = list(prices)
    for start in range(0, len(kept), size):
        group = kept[start : start + size]
        yield _Bucket(group[0], min(group, key=attrgetter("value")), max(group, key=attrgetter("value")))
