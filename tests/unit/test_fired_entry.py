"""The text of a fired deal, as the scripts write it, the queue carries it and dead letters keep it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from workers.book import Fired, parse_fired, read_fired
from workers.dispatch import BATCH, batches, describe

TEXT = "3|BTCUSDT|41234.50|987|1767873600123|1767873600150|1767873600151|tick"
FIRED = Fired(12, 3, "BTCUSDT", "41234.50", 987, 1767873600123, 1767873600150, 1767873600151, "tick")


def test_an_entry_is_read_as_it_was_written() -> None:
    assert Fired.parse("12", TEXT) == FIRED
    assert FIRED.entry == TEXT


def test_an_entry_without_a_trade_id_stays_without() -> None:
    fired = FIRED._replace(trade_id=None, detector="sweep")
    assert "|41234.50||1767873600123|" in fired.entry
    assert Fired.parse(12, fired.entry) == fired


def test_settlement_gets_the_price_as_text_said_and_the_times_to_the_millisecond() -> None:
    due = FIRED.due()
    assert (due.deal_id, due.version, due.price, due.detector, due.trade_id) == (
        12,
        3,
        Decimal("41234.50"),
        "tick",
        987,
    )
    assert due.tick_at == datetime(2026, 1, 8, 12, 0, 0, 123_000, tzinfo=UTC)
    assert due.received_at == datetime(2026, 1, 8, 12, 0, 0, 150_000, tzinfo=UTC)
    assert due.fired_at == datetime(2026, 1, 8, 12, 0, 0, 151_000, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "garbage", "3|BTCUSDT|1|2|3", TEXT + "|more", TEXT.replace("987", "x")])
def test_a_damaged_entry_is_an_error_and_no_closure(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Fired.parse(12, text)


def test_the_scripts_answer_is_read_in_pairs() -> None:
    assert parse_fired(["12", TEXT, "13", TEXT]) == [FIRED, FIRED._replace(deal_id=13)]
    assert parse_fired([]) == []


def test_messages_hold_at_most_500_deals_and_lose_none() -> None:
    fired = [FIRED._replace(deal_id=n) for n in range(1_201)]
    cut = list(batches(fired))
    assert [len(batch) for batch in cut] == [BATCH, BATCH, 201]
    assert [item for batch in cut for item in batch] == fired
    assert list(batches([])) == []


def test_flower_shows_deal_ids_and_no_wall_of_text() -> None:
    assert describe([FIRED]) == "deals 12"
    many = [FIRED._replace(deal_id=n) for n in range(1, 14)]
    assert describe(many) == "deals 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more"


def test_an_entry_that_cannot_be_read_is_left_out_and_the_others_stay() -> None:
    good = "3|BTCUSDT|100.5|7|1000|1001|1002|tick"
    assert [fired.deal_id for fired in read_fired([("1", "garbage"), ("2", good), ("x", good)])] == [2]
