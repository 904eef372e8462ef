"""Which ticks count: the price board judges each one in memory, counts what it drops, and keeps the last good price."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from workers.clock import TapeClock
from workers.prices import SEQ_BITS, PriceBoard
from workers.sources.base import Tick

NOW = 1_767_873_600_000


@pytest.fixture
def clock() -> TapeClock:
    return TapeClock(NOW)


@pytest.fixture
def board(clock: TapeClock) -> PriceBoard:
    return PriceBoard(["BTCUSDT", "ETHUSDT"], token=7, clock=clock)


def tick(price: str = "100", at_ms: int = NOW, trade_id: int | None = None, symbol: str = "BTCUSDT") -> Tick:
    return Tick(symbol, price, at_ms, trade_id)


def test_a_good_tick_becomes_a_numbered_price_with_its_text_kept(board: PriceBoard) -> None:
    price = board.accept(tick("0.00001230", NOW - 40, 5))
    assert price is not None
    assert (price.price, price.value) == ("0.00001230", Decimal("0.0000123"))
    assert (price.at_ms, price.received_ms, price.trade_id) == (NOW - 40, NOW, 5)
    assert price.seq == (7 << SEQ_BITS) + 1
    assert board.last["BTCUSDT"] is price
    assert not board.dropped


@pytest.mark.parametrize(
    "text",
    ["0", "0.0", "-1", "+1", "NaN", "Infinity", "-inf", "1e5", "", " 1", "1 ", "abc", "1,5", "0x10", "1.", ".5", "١٢"],
)
def test_a_price_that_is_no_plain_positive_number_is_dropped_and_counted(board: PriceBoard, text: str) -> None:
    assert board.accept(tick(text)) is None
    assert board.dropped == {"bad_price": 1}
    assert not board.last


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("123456789012345", False),  # 15 digits, but not below 10^12
        ("123456789012", True),
        ("1234567890.12345", True),
        ("1234567890.123456", False),  # 16 significant digits
        ("0.000000000001", True),
        ("0.0000000000001", False),  # 13 decimals
        ("100.00000000000000000000", True),  # trailing zeros are free
        ("1" + "0" * 80, False),
    ],
)
def test_prices_have_at_most_15_significant_digits_and_12_decimals(board: PriceBoard, text: str, counts: bool) -> None:
    assert (board.accept(tick(text)) is not None) is counts
    assert board.dropped == ({} if counts else {"bad_price": 1})


def test_an_unknown_symbol_is_dropped_and_counted(board: PriceBoard) -> None:
    assert board.accept(tick(symbol="DOGEUSDT")) is None
    assert board.dropped == {"unknown_symbol": 1}


def test_a_tick_older_than_the_last_one_is_dropped_and_equal_times_count(board: PriceBoard) -> None:
    assert board.accept(tick("100", NOW - 10))
    assert board.accept(tick("101", NOW - 10))
    assert board.accept(tick("90", NOW - 11)) is None
    assert board.dropped == {"out_of_order": 1}
    assert board.last["BTCUSDT"].price == "101"


def test_a_repeated_trade_is_dropped_and_the_next_one_counts(board: PriceBoard) -> None:
    assert board.accept(tick("100", trade_id=5))
    assert board.accept(tick("90", trade_id=5)) is None
    assert board.accept(tick("90", trade_id=4)) is None
    assert board.dropped == {"repeated": 2}
    assert board.accept(tick("101", trade_id=6))
    assert board.accept(tick("102"))  # a source without trade ids repeats nothing


@pytest.mark.parametrize(("ahead_ms", "counts"), [(0, True), (2_000, True), (2_001, False), (3_600_000, False)])
def test_a_tick_more_than_two_seconds_ahead_is_dropped(board: PriceBoard, ahead_ms: int, counts: bool) -> None:
    assert (board.accept(tick(at_ms=NOW + ahead_ms)) is not None) is counts
    assert board.dropped == ({} if counts else {"future": 1})


@pytest.mark.parametrize(("age_ms", "counts"), [(9_999, True), (10_000, False), (86_400_000, False)])
def test_a_tick_that_is_stale_when_it_comes_is_dropped(board: PriceBoard, age_ms: int, counts: bool) -> None:
    assert (board.accept(tick(at_ms=NOW - age_ms)) is not None) is counts
    assert board.dropped == ({} if counts else {"stale": 1})


def test_a_tick_from_the_future_does_not_shut_out_those_that_follow(board: PriceBoard) -> None:
    assert board.accept(tick("1", NOW + 3_600_000)) is None
    assert board.accept(tick("100", NOW))


def test_symbols_do_not_order_each_other(board: PriceBoard) -> None:
    assert board.accept(tick("100", NOW, 50))
    assert board.accept(tick("3000", NOW - 100, 3, symbol="ETHUSDT"))
    assert not board.dropped


def test_sequences_rise_over_all_symbols_and_over_a_new_token(board: PriceBoard) -> None:
    seqs = [price.seq for n in range(3) if (price := board.accept(tick(str(100 + n))))]
    board.restart(8)
    seqs += [price.seq for n in range(3) if (price := board.accept(tick(str(100 + n))))]
    assert seqs == sorted(set(seqs))
    assert seqs[3] == (8 << SEQ_BITS) + 1


def test_a_new_token_starts_the_order_afresh(board: PriceBoard) -> None:
    assert board.accept(tick("100", NOW, 50))
    board.restart(8)
    assert board.accept(tick("99", NOW - 500, 3))


def test_a_renumbered_price_differs_in_its_number_only(board: PriceBoard) -> None:
    first, second = board.accept(tick("100")), board.accept(tick("101"))
    assert first is not None
    assert second is not None
    again = board.renumber(first)
    assert again.seq > second.seq
    assert msgspec.structs.replace(again, seq=first.seq) == first


def test_sequences_stay_exact_as_doubles_for_millions_of_tokens() -> None:
    largest = (((1 << 23) - 1) << SEQ_BITS) + (1 << SEQ_BITS) - 1
    assert int(float(largest)) == largest
