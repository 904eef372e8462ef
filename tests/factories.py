"""What tests need to exist: users, accounts and deals made by the services, prices written as the engine does."""

from __future__ import annotations

import itertools
import secrets
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from deals import quotes, services
from deals.models import Account, Deal, DealEvent, LedgerEntry, Notification
from workers.book import Fired, parse_fired
from workers.clock import WALL_CLOCK
from workers.prices import Price
from workers.redis_client import PROCESS_TICKS, connect
from workers.tick_call import tick_call

PASSWORD = "correct horse"
_numbers = itertools.count(1)
_seqs = itertools.count(1)


def make_user(username: str | None = None, *, password: str | None = None, **fields: Any) -> User:
    """A user; without a password nobody can log in as him, but the test is faster."""
    return User.objects.create_user(username or f"user-{next(_numbers)}", password=password, **fields)


def make_account(balance: str = "10000", *, user: User | None = None) -> Account:
    """A funded account, of a new user unless one is given."""
    return services.create_account((user or make_user()).pk, balance=Decimal(balance))


def set_price(symbol: str = "BTCUSDT", price: str = "100", *, age_s: float = 0, token: int = 1) -> list[Fired]:
    """Run one tick through the engine's script, received `age_s` ago; what fired is only answered, not sent.

    Nothing fires unless the cached system state is `running` (`workers.system.refresh_state`).
    """
    at_ms = WALL_CLOCK.now_ms() - int(age_s * 1000)
    tick = Price(symbol, price, Decimal(price), at_ms, None, next(_seqs), at_ms)
    call = tick_call([tick], token=token, owner=secrets.token_hex(4), now_ms=WALL_CLOCK.now_ms(), publish=True)
    _state, refused, flat, *_ = PROCESS_TICKS.run(connect(), *call)
    assert not refused
    return parse_fired(flat)


def make_deal(account: Account | None = None, *, price: str = "100", symbol: str = "BTCUSDT", **terms: Any) -> Deal:
    """An open deal: 100 USDT × 10, `up`, opened at the given price, without levels unless they are given."""
    set_price(symbol, price)
    levels = {name: Decimal(terms.pop(name)) for name in ("take_profit", "stop_loss") if terms.get(name)}
    values = {"direction": "up", "amount": "100", "multiplier": 10} | terms
    return services.open_deal(
        user_id=(account or make_account()).user_id,
        symbol=symbol,
        quote=quotes.board().quote(symbol),
        **{**values, "amount": Decimal(values["amount"])},
        **levels,
    )


def close_deal(deal: Deal, *, price: str = "100") -> Deal:
    """Close it by hand at a price."""
    set_price(deal.symbol, price)
    return services.close_deal(deal_id=deal.pk, quote=quotes.board().quote(deal.symbol))


def client_of(account: Account) -> APIClient:
    """A client of the REST API with the token of the account's user."""
    client = APIClient()
    token, _ = Token.objects.get_or_create(user_id=account.user_id)
    client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
    return client


def everything() -> dict[str, list[Any]]:
    """Every row of the domain: what must be the same before and after a refusal."""
    models = (Account, Deal, LedgerEntry, DealEvent, Notification)
    return {model.__name__: list(model.objects.order_by("pk").values()) for model in models}
