"""The oracle of the fault tests sees every kind of harm: made by hand in a healthy system, and mended again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from chaos.feed import Published
from chaos.oracle import Findings, Oracle
from chaos.system import SYMBOLS
from chaos.world import World

TRIES = 5
"""Some harm the system mends by itself within seconds, which on a busy machine may be before we look."""

pytestmark = [pytest.mark.faults, pytest.mark.alone, pytest.mark.timeout(400)]


class Example(NamedTuple):
    """A closed deal and an open one, of two symbols."""

    closed: int
    open: int
    symbol: str


@pytest.fixture
def example(world: World) -> Iterator[Example]:
    deals = world.open_probes()
    world.feed.go({SYMBOLS[0]: world.feed.price(SYMBOLS[0]) * 102 / 100})
    world.check()
    yield Example(closed=deals[0], open=deals[1], symbol=SYMBOLS[1])
    world.check()  # it was mended again


def look(world: World, **seen: Any) -> Findings:
    """What a fresh oracle says, of the real prices unless others are given."""
    feed: Any = SimpleNamespace(
        sent={symbol: list(sent) for symbol, sent in world.feed.sent.items()},
        taken=dict(world.feed.taken),
        after=world.feed.after,
    )
    for name, value in seen.items():
        setattr(feed, name, value(feed))
    return Oracle(world.system, feed).look(world.traders.answers)


def sql(query: str) -> Callable[[World, Example], None]:
    def run(world: World, example: Example) -> None:
        world.system.sql(query.format(**example._asdict()))

    return run


def take_profit(world: World, example: Example) -> float:
    return float(world.system.sql("SELECT take_profit FROM deals WHERE id = %s", example.open)[0][0])


def set_upper_trigger(world: World, example: Example, price: float) -> None:
    world.system.redis.zadd(f"book:{example.symbol}:upper", {str(example.open): price})


@pytest.mark.parametrize(
    ("harm", "mend", "says"),
    [
        (
            sql("UPDATE accounts SET balance = balance + 0.00000001 WHERE id = (SELECT min(id) FROM accounts)"),
            sql("UPDATE accounts SET balance = balance - 0.00000001 WHERE id = (SELECT min(id) FROM accounts)"),
            "ledger: account",
        ),
        (
            sql("UPDATE deals SET monitoring = 'pending' WHERE id = {open}"),
            sql("UPDATE deals SET monitoring = 'armed' WHERE id = {open}"),
            "is pending: not protected",
        ),
        (
            sql("UPDATE deals SET profit = profit + 0.00000001 WHERE id = {closed}"),
            sql("UPDATE deals SET profit = profit - 0.00000001 WHERE id = {closed}"),
            "wrong: deal",
        ),
        (
            sql(
                "INSERT INTO deal_events (deal_id, kind, version, price, detector, at, error) "
                "SELECT deal_id, kind, version, price, detector, at, error FROM deal_events "
                "WHERE deal_id = {closed} AND kind = 'closed'"
            ),
            sql(
                "ALTER TABLE deal_events DISABLE TRIGGER deal_events_append_only; "
                "DELETE FROM deal_events WHERE id = (SELECT max(id) FROM deal_events WHERE deal_id = {closed}); "
                "ALTER TABLE deal_events ENABLE TRIGGER deal_events_append_only"
            ),
            "has closed twice",
        ),
        (
            lambda world, _example: world.system.redis.hset("fired", "0", "1|X|1||0|0|0|tick"),
            lambda world, _example: world.system.redis.hdel("fired", "0"),
            "Redis: fired holds",
        ),
        (
            lambda world, example: world.system.redis.hset(f"book:{example.symbol}:versions", "0", "1"),
            lambda world, example: world.system.redis.hdel(f"book:{example.symbol}:versions", "0"),
            "deal 0: the book holds Held(version=1, upper=None, lower=None), PostgreSQL watches None",
        ),
        (
            lambda world, example: world.system.redis.hdel(f"book:{example.symbol}:versions", str(example.open)),
            lambda world, example: world.system.redis.hset(f"book:{example.symbol}:versions", str(example.open), "1"),
            "the book holds Held(version=None, upper=",
        ),
        (
            lambda world, example: set_upper_trigger(world, example, 1e6),
            lambda world, example: set_upper_trigger(world, example, take_profit(world, example)),
            "PostgreSQL watches Held(version=1, upper=",
        ),
    ],
    ids=[
        "a digit of a balance",
        "unprotected",
        "a digit of a profit",
        "closed twice",
        "left in Redis",
        "a stranger",
        "a gap",
        "another trigger",
    ],
)
def test_harm_is_seen(world: World, example: Example, harm: Any, mend: Any, says: str) -> None:
    for _ in range(TRIES):
        harm(world, example)
        found = str(look(world))
        mend(world, example)
        if says in found:
            break
    assert says in found


def test_a_closed_deal_that_was_right_is_compared_again_when_it_changes(world: World, example: Example) -> None:
    world.system.sql("UPDATE deals SET commission = commission + 0.00000001 WHERE id = %s", example.closed)
    found = world.look()
    world.system.sql("UPDATE deals SET commission = commission - 0.00000001 WHERE id = %s", example.closed)
    assert example.closed in found.wrong
    assert example.closed not in world.look().wrong


def test_a_lost_deal_is_seen(world: World, example: Example) -> None:
    """As if the system had taken a price and nothing had come of it."""

    def and_one_more(feed: Any) -> dict[str, list[Published]]:
        sent = feed.sent[example.symbol]
        sent.append(Published(sent[-1].at_ms + 1, world.feed.price(example.symbol) * 2))
        return dict(feed.sent)

    not_taken = look(world, sent=and_one_more)
    assert example.open not in not_taken.lost, "a price that nobody took closes nothing"
    lost = look(world, sent=and_one_more, taken=lambda feed: {name: len(sent) for name, sent in feed.sent.items()})
    assert example.open in lost.lost
    assert f"lost: deal {example.open}" in str(lost)
    assert any("event: " in line for line in world.oracle.history(example.open))


def test_a_closure_that_no_price_called_for_is_seen(world: World, example: Example) -> None:
    """As if the price had never gone there."""

    def without_the_last_move(feed: Any) -> dict[str, list[Published]]:
        start = feed.sent[SYMBOLS[0]][0]
        return {**feed.sent, SYMBOLS[0]: [sent._replace(price=start.price) for sent in feed.sent[SYMBOLS[0]]]}

    assert example.closed in look(world, sent=without_the_last_move).wrong


def test_an_answered_opening_that_is_gone_is_seen(world: World, example: Example) -> None:
    world.traders.answers.opened["a ghost"] = 0
    found = str(world.oracle.look(world.traders.answers))
    del world.traders.answers.opened["a ghost"]
    assert "deal 0 (a ghost) was answered and is gone" in found
