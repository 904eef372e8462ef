"""Deals by the million, written by COPY as if their users had opened them: every invariant holds afterwards.

Accounts, funding and opening postings, deals that are `armed`, their first two events. All deals opened at 100.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from bench.market import BASE

CHUNK: Final = 2_000
GOLDEN: Final = 0.6180339887498949  # its multiples spread evenly over [0, 1), for any number of deals
SPARE_FUNDS: Final = 1_000
NO_TRIGGERS: Final = "SET session_replication_role = replica"
LADDER: Final = (Decimal("100.2"), Decimal("100.9"))
"""Between the market's band and this range's end lie the upper triggers of deals that are to cross."""
FAR_ABOVE: Final = 101
FAR_BELOW: Final = 99
FAR: Final = 40
"""All other triggers lie 1 to 41 % away from the price."""


class Terms(NamedTuple):
    """What a deal is made of besides its account: symbol and the two triggers, as text."""

    symbol: str
    upper: str
    lower: str


Plan = Callable[[int], Terms]
"""The terms of the n-th deal of a loading, from 0 on."""


class Loaded(NamedTuple):
    """The ids that a loading gave: from `first` on, without gaps."""

    first: int
    deals: int


def far_deals(symbols: list[str]) -> Plan:
    """Deals that no price of the band reaches, over all symbols."""

    def terms(number: int) -> Terms:
        symbol = symbols[number % len(symbols)]
        return Terms(symbol, f"{FAR_ABOVE + _spread(number) * FAR:.6f}", _far_below(number))

    return terms


def close_deals(symbol: str) -> Plan:
    """Deals of one symbol whose upper triggers lie anywhere on the ladder."""
    low, high = (float(end) for end in LADDER)

    def terms(number: int) -> Terms:
        return Terms(symbol, f"{low + _spread(number) * (high - low):.8f}", _far_below(number))

    return terms


def rungs(symbols: list[str], count: int) -> Plan:
    """Deals on the ladders of all symbols in turn, one a rung: `rung_price` tells which price reaches how many."""

    def terms(number: int) -> Terms:
        rung, symbol = divmod(number, len(symbols))
        return Terms(symbols[symbol], rung_price(rung, len(symbols), count), _far_below(number))

    return terms


def rung_price(rung: int, symbols: int, count: int) -> str:
    """The upper trigger of each symbol's rung-th deal, of `count` deals over that many symbols."""
    step = (LADDER[1] - LADDER[0]) / -(-count // symbols)
    return f"{LADDER[0] + rung * step:.8f}"


def load(url: str, count: int, plan: Plan, *, per_account: int) -> Loaded:
    """Write that many open, armed deals of new accounts, so many each; then let PostgreSQL know its tables.

    Foreign keys are not checked row by row: the rows are right by construction, and the ledger is checked afterwards.
    """
    with psycopg.connect(url) as connection:
        first, first_account = (_next_id(connection, table) for table in ("deals", "accounts"))
    accounts = range(first_account, first_account + -(-count // per_account))
    margins = _margins(count, accounts)
    now = datetime.now(UTC)
    with ThreadPoolExecutor(max_workers=2) as pool:  # a connection each: PostgreSQL does most of the work
        writers = (
            pool.submit(_write_deals, url, _Loading(first, count, accounts, margins, now), plan),
            pool.submit(_write_history, url, _Loading(first, count, accounts, margins, now)),
        )
        for writer in writers:
            writer.result()
    with psycopg.connect(url, autocommit=True) as connection:
        # What autovacuum would do a minute later, in the middle of a measurement.
        connection.execute("VACUUM (ANALYZE) deals, accounts, ledger_entries, deal_events")
        connection.execute("CHECKPOINT")
    return Loaded(first, count)


class _Loading(NamedTuple):
    first: int
    deals: int
    accounts: range
    margins: dict[int, int]
    now: datetime


def _write_deals(url: str, loading: _Loading, plan: Plan) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(NO_TRIGGERS)
        _copy(connection, "auth_user", USER_COLUMNS, _users(loading))
        _copy(connection, "accounts", ACCOUNT_COLUMNS, _accounts(loading))
        _copy(connection, "deals", DEAL_COLUMNS, _deals(loading, plan))
        for table in ("deals", "accounts", "auth_user"):
            connection.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), (SELECT max(id) FROM {}))").format(
                    sql.Literal(table), sql.Identifier(table)
                )
            )


def _write_history(url: str, loading: _Loading) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(NO_TRIGGERS)
        _copy(connection, "ledger_entries", LEDGER_COLUMNS, _postings(loading))
        _copy(connection, "deal_events", EVENT_COLUMNS, _events(loading))


# --- the tables, in text as COPY reads it ----------------------------------------------------------------------

USER_COLUMNS: Final = (
    *("id", "password", "is_superuser", "username", "first_name", "last_name", "email", "is_staff", "is_active"),
    "date_joined",
)
ACCOUNT_COLUMNS: Final = (
    *("id", "user_id", "balance", "margin", "closed_deals", "winning_deals", "total_volume", "total_amount"),
    *("largest_profit", "largest_loss", "created_at"),
)
DEAL_COLUMNS: Final = (
    *("id", "account_id", "symbol", "direction", "amount", "multiplier", "open_price", "take_profit", "stop_loss"),
    *("upper_trigger", "lower_trigger", "status", "opened_at", "monitoring", "monitoring_since", "watch_version"),
    *("watched_from_seq", "watched_from_at", "watch_expires_at"),
)
LEDGER_COLUMNS: Final = ("account_id", "deal_id", "kind", "amount", "created_at")
EVENT_COLUMNS: Final = ("deal_id", "kind", "version", "price", "at", "error")


def _amount(number: int) -> int:
    return 10 + number % 90


def _owner(number: int, accounts: range) -> int:
    """A deal's account: an account's deals lie scattered, as users open them."""
    return accounts[number * 7919 % len(accounts)]


def _margins(count: int, accounts: range) -> dict[int, int]:
    margins = dict.fromkeys(accounts, 0)
    for number in range(count):
        margins[_owner(number, accounts)] += _amount(number)
    return margins


def _users(loading: _Loading) -> Iterator[str]:
    run = secrets.token_hex(3)
    for account in loading.accounts:
        yield f"{account}\t!\tf\tbench-{run}-{account}\t\t\t\tf\tt\t{loading.now}\n"


def _accounts(loading: _Loading) -> Iterator[str]:
    for account, margin in loading.margins.items():
        yield f"{account}\t{account}\t{SPARE_FUNDS}\t{margin}\t0\t0\t0\t0\t0\t0\t{loading.now}\n"


def _deals(loading: _Loading, plan: Plan) -> Iterator[str]:
    first, accounts, now = loading.first, loading.accounts, loading.now
    tail = f"open\t{now}\tarmed\t{now}\t1\t0\t{now}\t{now + timedelta(hours=24)}\n"
    for number in range(loading.deals):
        symbol, upper, lower = plan(number)
        # Half go up, where the upper trigger is the Take Profit; for the other half it is the Stop Loss.
        direction, profit, loss = ("up", upper, lower) if number // 7 % 2 else ("down", lower, upper)
        yield (
            f"{first + number}\t{_owner(number, accounts)}\t{symbol}\t{direction}\t{_amount(number)}"
            f"\t{1 + number % 10}\t{BASE}\t{profit}\t{loss}\t{upper}\t{lower}\t{tail}"
        )


def _postings(loading: _Loading) -> Iterator[str]:
    first, accounts, now = loading.first, loading.accounts, loading.now
    for account, margin in loading.margins.items():
        yield f"{account}\t\\N\tfunding\t{margin + SPARE_FUNDS}\t{now}\n"
    for number in range(loading.deals):
        yield f"{_owner(number, accounts)}\t{first + number}\topen\t-{_amount(number)}\t{now}\n"


def _events(loading: _Loading) -> Iterator[str]:
    first, now = loading.first, loading.now
    for number in range(loading.deals):
        yield f"{first + number}\topened\t1\t{BASE}\t{now}\t\n{first + number}\tarmed\t1\t\\N\t{now}\t\n"


def _copy(
    connection: psycopg.Connection[tuple[object, ...]], table: str, columns: tuple[str, ...], rows: Iterator[str]
) -> None:
    command = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        chunk: list[str] = []
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK:
                copy.write("".join(chunk))
                chunk.clear()
        copy.write("".join(chunk))


def _next_id(connection: psycopg.Connection[tuple[object, ...]], table: str) -> int:
    query = sql.SQL("SELECT coalesce(max(id), 0) + 1 FROM {}").format(sql.Identifier(table))
    row = connection.execute(query).fetchone()
    return int(str(row[0])) if row else 1


def _spread(number: int) -> float:
    return number * GOLDEN % 1


def _far_below(number: int) -> str:
    return f"{FAR_BELOW - number * GOLDEN * GOLDEN % 1 * FAR:.6f}"
