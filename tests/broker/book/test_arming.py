"""The trigger book's scripts on the real server: arming, also after the price has moved, and what leaves `fired`."""

from __future__ import annotations

import pytest
from held import NOW, fired_now, waits
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, row, say_state

from workers import book
from workers.clock import TapeClock
from workers.prices import RedisQuoteBoard

# --- arming -----------------------------------------------------------------------------------------------------


def test_arming_puts_both_triggers_into_the_book_at_their_version(market: Market, clock: TapeClock) -> None:
    armed = book.arm([row(1, "110", "90", watch_version=4), row(2, None, "0.000000000001")], clock=clock)
    assert [held.id for held in armed.held] == [1, 2]
    assert armed.fired == []
    assert in_book(1) == (110.0, 90.0, "4")
    assert in_book(2) == (None, 1e-12, "1")


def test_arming_again_at_a_newer_version_replaces_and_takes_away(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", "90")], clock=clock)
    book.arm([row(1, None, "95", watch_version=2)], clock=clock)
    assert in_book(1) == (None, 95.0, "2")


def test_arming_twice_changes_nothing(market: Market, clock: TapeClock) -> None:
    for _ in range(2):
        assert [held.id for held in book.arm([row(1, "110", "90")], clock=clock).held] == [1]
    assert in_book(1) == (110.0, 90.0, "1")


def test_an_older_version_is_refused(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "120", watch_version=3)], clock=clock)
    armed = book.arm([row(1, "110", watch_version=2)], clock=clock)
    assert armed.held == []
    assert in_book(1) == (120.0, None, "3")


def test_a_deal_that_is_not_watched_leaves_the_book(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", "90"), row(2, "110")], clock=clock)
    book.arm([row(1, "110", "90", watch_version=2, monitoring="removed")], clock=clock)
    assert in_book(1) == NOT_IN_BOOK
    assert in_book(2) == (110.0, None, "1")
    assert market.tick("200")[0].deal_id == 2
    assert set(fired_now()) == {2}


def test_disarming_at_an_older_version_is_refused(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", watch_version=3)], clock=clock)
    book.take_out([row(1, "105", watch_version=2)], clock=clock)
    assert in_book(1) == (110.0, None, "3")


def test_more_deals_than_a_call_takes_are_armed_in_chunks(market: Market, clock: TapeClock) -> None:
    rows = [row(n, "110", symbol=BTC if n % 2 else ETH) for n in range(1, 2 * book.ARM_CHUNK + 100)]
    assert len(book.arm(rows, clock=clock).held) == len(rows)
    counts = book.armed_count([BTC, ETH])
    assert sum(counts.values()) == len(rows)


# --- arming after the price has moved ---------------------------------------------------------------------------


def test_a_crossing_that_came_back_before_arming_fires_at_the_trigger(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("112", "101", trade_id=5)
    armed = book.arm([row(1, "110.5", watched_from_seq=seq), row(2, "113", watched_from_seq=seq)], clock=clock)
    assert [held.id for held in armed.held] == [1, 2]
    assert [(item.deal_id, item.price, item.trade_id, item.detector) for item in armed.fired] == [
        (1, "110.5", None, "arm")
    ]
    assert fired_now() == {1: (1, "110.5", "arm")}
    assert in_book(1) == NOT_IN_BOOK
    assert in_book(2) == (113.0, None, "1")


def test_a_crossing_that_still_holds_when_armed_fires_at_the_current_price(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("115", "112.50", trade_id=5)
    [fired] = book.arm([row(1, "110", watched_from_seq=seq)], clock=clock).fired
    assert (fired.price, fired.trade_id, fired.detector) == ("112.50", 6, "arm")


@pytest.mark.parametrize(("direction", "price"), [("up", "90"), ("down", "110")])
def test_stop_loss_wins_when_both_were_crossed_before_arming(
    market: Market, clock: TapeClock, direction: str, price: str
) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("111", "89", "100")
    [fired] = book.arm([row(1, "110", "90", watched_from_seq=seq, direction=direction)], clock=clock).fired
    assert fired.price == price


def test_arming_looks_only_at_what_came_after_the_watch_began(market: Market, clock: TapeClock) -> None:
    market.tick("100", "120")
    clock.set(NOW + 100)
    market.tick("105")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("106")
    assert book.arm([row(1, "110", watched_from_seq=seq)], clock=clock).fired == []
    assert in_book(1) == (110.0, None, "1")


def test_arming_looks_back_over_many_closed_buckets(market: Market, clock: TapeClock) -> None:
    seqs = []
    for step, price in enumerate(["100", "101", "150", "102", "103", "104"]):
        clock.set(NOW + 1_000 * step)
        market.tick(price)
        seqs.append(market.seq())
    rows = [row(n, "140", watched_from_seq=seq) for n, seq in enumerate(seqs, start=1)]
    assert [item.deal_id for item in book.arm(rows, clock=clock).fired] == [1, 2]
    assert {item.price for item in book.all_fired().values()} == {"140"}


def test_a_stale_price_fires_nothing_at_arming_and_the_deal_stays_to_be_armed(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("112", "101")
    clock.set(NOW + 10_000)
    crossed, safe = row(1, "110", watched_from_seq=seq), row(2, "120", watched_from_seq=seq)
    armed = book.arm([crossed, safe], clock=clock)
    assert armed.fired == []
    assert [held.id for held in armed.held] == [2]  # the first one's crossing is still to be judged
    assert in_book(1) == (110.0, None, "1")
    market.tick("102")
    assert [item.price for item in book.arm([crossed], clock=clock).fired] == ["110"]


def test_a_deal_that_fired_keeps_its_price_when_armed_again(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    market.tick("111")
    armed = book.arm([row(1, "110")], clock=clock)
    assert ([held.id for held in armed.held], armed.fired) == ([1], [])
    assert in_book(1) == NOT_IN_BOOK
    assert fired_now() == {1: (1, "111", "tick")}


def test_an_amended_deal_leaves_what_fired_before(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    market.tick("111")
    seq = market.seq()
    book.arm([row(1, "130", watch_version=2, watched_from_seq=seq)], clock=clock)
    assert book.all_fired() == {}
    assert waits() == set()
    assert in_book(1) == (130.0, None, "2")


# --- after the settlement ---------------------------------------------------------------------------------------


def test_clearing_leaves_what_fired_at_a_newer_version(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", watch_version=2), row(2, "110")], clock=clock)
    market.tick("111")
    assert book.clear_fired([(1, 1), (2, 1), (3, 1)]) == 1
    assert fired_now() == {1: (2, "111", "tick")}
    assert waits() == {"1"}


def test_clearing_takes_as_many_as_there_are_and_each_once(market: Market, clock: TapeClock) -> None:
    ids = range(1, 2_502)
    book.arm([row(deal_id, "110", watch_version=deal_id % 2 + 1) for deal_id in ids], clock=clock)
    assert len(market.tick("111")) == 2_501
    settled = [(deal_id, 1) for deal_id in ids]
    assert book.clear_fired([(2, 1), *settled]) == 1_250
    assert waits() == {str(deal_id) for deal_id in ids if deal_id % 2}
    assert set(fired_now()) == {deal_id for deal_id in ids if deal_id % 2}
    assert book.clear_fired(settled) == 0


def test_what_the_sweep_found_does_not_replace_what_has_fired(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110"), row(2, "120")], clock=clock)
    [fired] = market.tick("111")
    late = fired._replace(price="115", detector="sweep")
    found = book.fire_found([late, late._replace(deal_id=2)], now_ms=NOW)
    assert found is not None
    assert [item.deal_id for item in found] == [2]
    assert fired_now() == {1: (1, "111", "tick"), 2: (1, "115", "sweep")}
    assert in_book(2) == NOT_IN_BOOK
    say_state("halted", version=2)
    assert book.fire_found([late._replace(deal_id=3)], now_ms=NOW) is None
    assert 3 not in book.all_fired()


def test_postponing_does_not_bring_back_what_has_left(market: Market, clock: TapeClock) -> None:
    book.postpone({1: NOW})
    assert waits() == set()
