"""The tape reader: what it accepts, and what it says about what it refuses."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from workers.clock import TapeClock
from workers.sources import SourceError
from workers.sources.base import Tick
from workers.sources.tape import TapeError, TapeSource, Trade, parse_speed, read_trades

GOOD = "1,100.50,0.1,10.05,1610064000278,True"


def write(tmp_path: Path, *rows: str | bytes) -> Path:
    path = tmp_path / "tape.csv"
    path.write_bytes(b"".join((row.encode() if isinstance(row, str) else row) + b"\n" for row in rows))
    return path


def test_prices_are_read_as_written_and_times_as_milliseconds(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        GOOD,
        "2,0.00000123,5,6,1610064000278,False",
        "9,100.50000000000000,5,6,1610064000100,False",  # zeros at the end don't count, times may go back
        "10,123456789012,whatever,,0,",
    )
    assert list(read_trades(path)) == [
        Trade(1, 1, "100.50", 1610064000278),
        Trade(2, 2, "0.00000123", 1610064000278),
        Trade(3, 9, "100.50000000000000", 1610064000100),
        Trade(4, 10, "123456789012", 0),
    ]


def test_the_seventh_column_microseconds_and_windows_line_ends_of_other_archives_are_read(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "1,4.15,1,4,1735689600010866,False,True\r", "2,4.16,1,4,1735689600010999,False,True\r")
    assert [(trade.price, trade.at_ms) for trade in read_trades(path)] == [
        ("4.15", 1735689600010),
        ("4.16", 1735689600010),
    ]


def test_a_last_line_without_line_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tape.csv"
    path.write_text(GOOD)
    assert len(list(read_trades(path))) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,1.0,1,1,5,True", "trade id 'x' is not a whole number"),
        ("-2,1.0,1,1,5,True", "trade id '-2'"),
        ("2.0,1.0,1,1,5,True", "trade id '2.0'"),
        (" 2,1.0,1,1,5,True", "trade id ' 2'"),
        ("1_0,1.0,1,1,5,True", "trade id '1_0'"),
        ("٢,1.0,1,1,5,True", "trade id '٢'"),
        ("99999999999999999999,1.0,1,1,5,True", "trade id"),
        (",1.0,1,1,5,True", "trade id ''"),
        ("1,1.0,1,1,5,True", "trade id 1 does not rise (the row before has 1)"),
        ("0,1.0,1,1,5,True", "trade id 0 does not rise"),
        ("2,,1,1,5,True", "price ''"),
        ("2,abc,1,1,5,True", "price 'abc'"),
        ("2,NaN,1,1,5,True", "price 'NaN'"),
        ("2,Infinity,1,1,5,True", "price 'Infinity'"),
        ("2,1e5,1,1,5,True", "price '1e5'"),
        ("2,-1.0,1,1,5,True", "price '-1.0'"),
        ("2,+1.0,1,1,5,True", "price '+1.0'"),
        ("2, 1.0,1,1,5,True", "price ' 1.0'"),
        ("2,1.,1,1,5,True", "price '1.'"),
        ("2,.5,1,1,5,True", "price '.5'"),
        ("2,1_000,1,1,5,True", "price '1_000'"),
        ("2,٢,1,1,5,True", "price '٢'"),
        ("2,0,1,1,5,True", "price '0'"),
        ("2,0.000,1,1,5,True", "price '0.000'"),
        ("2,0.0000000000001,1,1,5,True", "12 decimals"),
        ("2,1234567890.123456,1,1,5,True", "15 significant digits"),
        ("2,1000000000000,1,1,5,True", "less than 10^12"),
        ("2," + "1" * 5000 + ",1,1,5,True", "price"),
        ("2,1.0,1,1,5.5,True", "time '5.5' is not a whole number"),
        ("2,1.0,1,1,,True", "time ''"),
        ("2,1.0,1,1,-5,True", "time '-5'"),
        ("2,1.0,1,1,173568960001086600,True", "neither milliseconds nor microseconds"),
        ("2,1.0,1,1,5", "has 5 columns, not 6 or 7"),
        ("2,1.0,1,1,5,True,True,9", "has 8 columns, not 6 or 7"),
        ("", "is blank"),
        ("id,price,qty,quote_qty,time,is_buyer_maker", "trade id 'id'"),
        (b"2,1.0,1,1,5,\xff", "is not UTF-8"),
        (b"2,\xff,1,1,5,True", "is not UTF-8"),
        (b"\x00", "has 1 columns"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path: Path, row: str | bytes, reason: str) -> None:
    path = write(tmp_path, GOOD, row, "3,1.0,1,1,5,True")
    rows = read_trades(path)
    assert next(rows).line == 1
    with pytest.raises(TapeError) as caught:
        next(rows)
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{path}: line 2: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"tape\.csv: is empty"):
        list(read_trades(write(tmp_path)))
    with pytest.raises(TapeError, match=r"none\.csv: No such file"):
        list(read_trades(tmp_path / "none.csv"))
    with pytest.raises(TapeError, match="Is a directory"):
        list(read_trades(tmp_path))


async def drain(source: TapeSource) -> list[Tick]:
    return [tick async for tick in source.ticks()]


def test_the_source_yields_every_trade_of_a_generated_tape_as_fast_as_it_can(tmp_path: Path) -> None:
    rng = random.Random(3)
    wanted = [Tick("ETHUSDT", f"{rng.uniform(1, 9):.2f}", 1_000_000 * n, n) for n in range(1, 3001)]
    path = write(tmp_path, *(f"{tick.trade_id},{tick.price},1,1,{tick.at_ms},True" for tick in wanted))
    source = TapeSource(path, "ETHUSDT")
    assert asyncio.run(drain(source)) == wanted
    assert source.heartbeat.age_s() is not None


@pytest.mark.tapes
def test_the_source_yields_every_trade_of_the_recorded_tape(tapes_dir: Path) -> None:
    path = tapes_dir / "BTCUSDT-trades-2021-01-08.csv"
    ticks = asyncio.run(drain(TapeSource(path, "BTCUSDT")))
    assert len(ticks) == 2001
    assert ticks[0] == Tick("BTCUSDT", "39432.48", 1610064000278, 553287559)
    assert [f"{tick.trade_id},{tick.price}" for tick in ticks] == [
        row.rsplit(",", 4)[0] for row in path.read_text().splitlines()
    ]


def test_a_speed_paces_the_tape_by_its_own_times(tmp_path: Path) -> None:
    path = write(tmp_path, "1,1.0,1,1,1000,True", "2,1.0,1,1,500,True", "3,1.0,1,1,3000,True")
    started_s = time.monotonic()
    assert len(asyncio.run(drain(TapeSource(path, "BTCUSDT", 10.0)))) == 3
    assert 0.2 <= time.monotonic() - started_s < 1.5


def test_with_a_clock_the_first_trade_happens_now_and_the_others_as_much_later_as_they_came(tmp_path: Path) -> None:
    times = [1_610_064_000_278, 1_610_064_000_278, 1_610_064_000_285, 1_610_064_000_100, 1_610_064_000_478]
    path = write(tmp_path, *(f"{number},1.0,1,1,{at_ms},True" for number, at_ms in enumerate(times, start=1)))
    ticks = asyncio.run(drain(TapeSource(path, "BTCUSDT", 4.0, clock=TapeClock(1_800_000_000_000))))
    assert [tick.at_ms - 1_800_000_000_000 for tick in ticks] == [0, 0, 1, -45, 50]
    assert [tick.trade_id for tick in ticks] == [1, 2, 3, 4, 5]


def test_a_tape_that_is_moved_to_today_has_a_pace(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="needs a number as its speed"):
        TapeSource(tmp_path, "BTCUSDT", clock=TapeClock())


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "", "fast", "1e3", "MAX"])
def test_a_speed_is_max_or_a_positive_number(text: str) -> None:
    assert parse_speed("max") == "max"
    assert parse_speed("2.5") == 2.5
    with pytest.raises(SourceError, match="neither max nor a positive number"):
        parse_speed(text)
