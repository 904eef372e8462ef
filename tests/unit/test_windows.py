"""What single prices in memory say of a deal: only those after its own beginning count, by number and by time."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from deals.queries import DueRow
from workers.prices import Price
from workers.windows import PriceWindow, Range, from_prices

D = Decimal

AT = 1_767_873_600_000


def price(seq: int, value: str, *, ms: int | None = None) -> Price:
    at_ms = AT + (seq * 10 if ms is None else ms)
    return Price("BTCUSDT", value, D(value), at_ms, seq, seq, at_ms)


def row(*, seq: int = 0, ms: int = 0) -> DueRow:
    since = datetime.fromtimestamp((AT + ms) / 1000, UTC)
    return DueRow(1, "BTCUSDT", "up", D(110), None, 1, D(0), D(0), "armed", seq, since)


PRICES = [price(1, "100"), price(2, "111"), price(3, "90"), price(4, "101")]


@pytest.mark.parametrize(
    ("since", "reached"),
    [
        (row(), Range(D(90), D(111))),
        (row(seq=1, ms=10), Range(D(90), D(111))),
        (row(seq=2, ms=20), Range(D(90), D(101))),
        (row(seq=3, ms=30), Range(D(101), D(101))),
        (row(seq=4, ms=40), None),
        (row(seq=0, ms=25), Range(D(90), D(101))),  # numbered lower by another process, but newer
        (row(seq=0, ms=45), None),
    ],
)
def test_only_prices_after_a_deals_own_beginning_count(since: DueRow, reached: Range | None) -> None:
    assert PriceWindow.of(PRICES).reached_for(since) == reached


def test_a_window_spans_all_its_prices_and_ends_with_the_last() -> None:
    window = PriceWindow.of(PRICES)
    [bucket] = window.buckets
    assert (bucket.low, bucket.high, bucket.first_seq) == (D(90), D(111), 4)
    assert (window.price, window.seq, window.trade_id, window.gap_ms) == ("101", 4, 4, 0)


def test_what_was_swept_is_left_out_and_shows_only_a_gap() -> None:
    [window] = from_prices({"BTCUSDT": [*PRICES, price(5, "120", ms=30_040)], "ETHUSDT": []}, {"BTCUSDT": 4})
    assert (window.buckets[0].low, window.gap_ms, window.gap_seq) == (D(120), 30_000, 5)
    assert from_prices({"BTCUSDT": PRICES}, {"BTCUSDT": 4}) == []
    assert from_prices({"BTCUSDT": PRICES}, {"BTCUSDT": 9 << 30}) == []  # another process has driven it since
