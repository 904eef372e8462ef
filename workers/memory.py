"""What the prices process remembers of what it wrote, so that a restarted Redis gets it back.

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
from workers.prices import Price
from workers.redis_client import PUT_BACK

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
        self.unsettled: dict[int, Fired] = {}

    def written(self, prices: Iterable[Price], fired: Iterable[Fired]) -> None:
        """Remember what Redis has confirmed."""
        for price in prices:
            kept = self._prices[price.symbol]
            kept.append(price)
            while kept[0].received_ms < price.received_ms - KEEP_MS:
                kept.popleft()
        self.unsettled.update((item.deal_id, item) for item in fired)

    async def forget_settled(self, redis: Redis) -> None:
        """Drop what has left `fired`: PostgreSQL has settled it. Only right while Redis was not restarted."""
        ids = list(self.unsettled)
        if not ids:
            return
        entries = await redis.hmget(keys.fired(), [str(deal_id) for deal_id in ids])
        for deal_id, entry in zip(ids, entries, strict=True):
            if entry is None:
                del self.unsettled[deal_id]

    async def put_back(self, redis: Redis, token: int) -> list[Fired]:
        """Write to Redis what it has forgotten; returns what has fired and may have to be sent again."""
        for symbol, prices in self._prices.items():
            args: list[str | int] = [token, *_last_price(prices[-1])]
            for bucket in _buckets(prices):
                args += [bucket.first.seq, bucket.low.price, bucket.high.price, bucket.first.received_ms]
            buckets = await PUT_BACK.run_async(redis, [keys.price(symbol), keys.window(symbol)], args)
            log.warning("prices.put_back", symbol=symbol, buckets=buckets)
        for fired in self.unsettled.values():
            if await redis.hsetnx(keys.fired(), str(fired.deal_id), fired.entry):
                await redis.zadd(keys.fired_at(), {str(fired.deal_id): fired.fired_ms})
        return list(self.unsettled.values())


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
