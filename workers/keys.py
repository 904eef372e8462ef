"""Every key and channel in Redis. Values are described in the scripts that write them."""

from __future__ import annotations

from django.conf import settings


def _key(name: str) -> str:
    return f"{settings.KEY_PREFIX}{name}"


def price(symbol: str) -> str:
    """Hash: the last accepted price, its bucket so far, how many ticks came, and the fencing token of its writer."""
    return _key(f"price:{symbol}")


def price_update(symbol: str) -> str:
    """Channel: {symbol, price, timestamp} of accepted prices."""
    return _key(f"price_update:{symbol}")


def window(symbol: str) -> str:
    """Stream: closed price buckets of the last 60 s; the id is the bucket's first price sequence."""
    return _key(f"window:{symbol}")


def candles(step_ms: int, at_ms: int) -> str:
    """Hash with a time to live: symbol → candle of the step of that length that began then; see workers/candles.py."""
    return _key(f"candles:{step_ms // 1000}s:{at_ms // 1000}")


def upper(symbol: str) -> str:
    """Sorted set of the trigger book: deal ids by upper trigger."""
    return _key(f"book:{symbol}:upper")


def lower(symbol: str) -> str:
    """Sorted set of the trigger book: deal ids by lower trigger."""
    return _key(f"book:{symbol}:lower")


def versions(symbol: str) -> str:
    """Hash of the trigger book: the version at which each deal is armed."""
    return _key(f"book:{symbol}:versions")


def book_epoch() -> str:
    """String: the server's run id at the last completed rebuild; missing or different means a rebuild is due."""
    return _key("book:epoch")


def book_progress() -> str:
    """Hash: how far a rebuild or the slow check has got."""
    return _key("book:progress")


def fired() -> str:
    """Hash: deal id → fired entry (see workers/book.py), until PostgreSQL has settled it."""
    return _key("fired")


def fired_at() -> str:
    """Sorted set: deal ids by when their fired entry was last handed to the queue, ms."""
    return _key("fired:at")


def state() -> str:
    """String `version:state`: the cached system state."""
    return _key("system:state")


def lease(symbol: str) -> str:
    """String with a time to live: which prices process drives the symbol."""
    return _key(f"lease:{symbol}")


def dropped_ticks() -> str:
    """Hash: how many ticks were dropped, by reason."""
    return _key("prices:dropped")


def heartbeat(role: str, name: str) -> str:
    """String with a time to live: JSON, the sign of life of one process; see workers/heartbeats.py."""
    return _key(f"heartbeat:{role}:{name}")


def heartbeats() -> str:
    """Sorted set: `role:name` of every process that gave a sign of life lately, by when, ms."""
    return _key("heartbeats")


def last_sweep() -> str:
    """Hash: when the last sweep ended (`at`, ms), how long it took and what it did."""
    return _key("sweep:last")


def counters() -> str:
    """Hash: what Prometheus counts of all processes together, since Redis began; see workers/counters.py."""
    return _key("metrics:counters")


def depths() -> str:
    """Stream: how deep each queue was, every 2 s, for an hour; see monitoring/depths.py."""
    return _key("queues:depths")


def depths_turn() -> str:
    """String with a time to live: one web process has just sampled the queues."""
    return _key("queues:depths:turn")


def health_since() -> str:
    """Hash: since when (ms) each check of health that is bad has been found bad."""
    return _key("health:since")


def notifications(user_id: int) -> str:
    """Channel: what a user is told."""
    return _key(f"notifications:{user_id}")


def closures() -> str:
    """Channel: one message a settlement, with its closures."""
    return _key("closures")


def events() -> str:
    """Stream: what has happened lately, for the operators' live stream; see workers/events.py."""
    return _key("events")
