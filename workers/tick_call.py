"""The words of one call of the tick script; what they mean is said at its head (workers/scripts/process_ticks.lua)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from django.conf import settings

from workers import keys
from workers.prices import Price

Word = str | int | bytes


class TickCall(NamedTuple):
    """Keys and arguments of the script."""

    keys: list[str]
    args: list[Word]


def tick_call(prices: Sequence[Price], *, token: int, owner: str, now_ms: int, publish: bool) -> TickCall:
    """Have these prices, at least one, processed in their order."""
    numbers = {symbol: str(n) for n, symbol in enumerate(dict.fromkeys(price.symbol for price in prices), start=1)}
    names = [keys.state(), keys.fired(), keys.fired_at()]
    args: list[Word] = [token, owner, now_ms, int(publish), settings.PRICE_STALE_AFTER_S * 1000]
    args.append(_packed(prices, numbers))
    for symbol in numbers:
        names += [keys.price(symbol), keys.window(symbol), keys.upper(symbol), keys.lower(symbol)]
        names += [keys.versions(symbol), keys.lease(symbol)]
        args += [symbol, keys.price_update(symbol)]
    names.append(keys.events())
    return TickCall(names, args)


def _packed(prices: Sequence[Price], numbers: dict[str, str]) -> bytes:
    """One argument for all: six of each tick would cost the client and Redis more than the tick itself."""
    words: list[str] = []
    for price in prices:
        trade_id = "" if price.trade_id is None else str(price.trade_id)
        words += (numbers[price.symbol], price.price, str(price.at_ms), trade_id)
        words += (str(price.seq), str(price.received_ms))
    return msgspec.json.encode(words)
