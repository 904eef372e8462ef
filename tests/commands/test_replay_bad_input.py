"""What `manage.py replay` refuses: one line with file, line and reason, and nothing is written or left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from django.core.management import CommandError, call_command
from servers import PROJECT

TAPE = ("10,100.00,1,100,1000,True", "11,101.50,1,100,1000,False", "12,99.00,1,99,1500,True")
HEADER = "ref,direction,amount,multiplier,take_profit,stop_loss,open_at_trade"
GOOD = "first,up,1,1,110,90,10"
EARLIER = "from an earlier replay"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis) -> Iterator[None]:
    """A good tape, good deals and earlier closures, as seen from the caller's folder; after the test only those."""
    monkeypatch.chdir(tmp_path)
    Path("tape.csv").write_text("\n".join(TAPE) + "\n")
    Path("deals.csv").write_text(f"{HEADER}\n{GOOD}\n")
    Path("closures.csv").write_text(EARLIER)
    yield
    assert Path("closures.csv").read_text() == EARLIER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closures.csv", "deals.csv", "tape.csv"]
    assert list(redis_client.scan_iter()) == []
    with psycopg.connect(os.environ["DATABASE_URL"]) as server:
        found = server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'cryptocraze_replay_%'").fetchall()
    assert found == []


def refusal(**changes: str) -> str:
    """What the command says of these arguments; it must be one line."""
    chosen = {"symbol": "BTCUSDT", "deals": "deals.csv", "out": "closures.csv"} | changes
    tape = chosen.pop("tape", "tape.csv")
    with pytest.raises(CommandError) as caught:
        call_command("replay", tape, *(part for name, value in chosen.items() for part in (f"--{name}", value)))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 300
    return said


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,1.0,1,1,5000,True", "trade id 'x' is not a whole number"),
        ("12,1.0,1,1,5000,True", "trade id 12 does not rise (the row before has 12)"),
        ("13,0,1,1,5000,True", "price '0' must be greater than zero"),
        ("13,-1,1,1,5000,True", "price '-1' must be a plain positive decimal number"),
        ("13,NaN,1,1,5000,True", "price 'NaN'"),
        ("13,1e5,1,1,5000,True", "price '1e5'"),
        ("13,,1,1,5000,True", "price ''"),
        ("13,1.0,1,1,soon,True", "time 'soon' is not a whole number"),
        ("13,1.0,1,1", "has 4 columns, not 6 or 7"),
        ('13,"1.0,1,1,5000,True', "unexpected end of data"),
        ('13,"1.0"0,1,1,5000,True', "',' expected after '\"'"),
        ("13;1.0;1;1;5000;True", "has 1 columns"),
        ("\n14,1.0,1,1,5000,True", "is blank"),
        ("13,\udcff,1,1,5000,True", "is not UTF-8"),
    ],
)
def test_a_bad_row_of_the_tape_is_named(row: str, reason: str) -> None:
    content = "\n".join([*TAPE, row, ""])
    Path("tape.csv").write_bytes(content.encode(errors="surrogateescape"))
    assert refusal().startswith("tape.csv: line 4: ")
    assert reason in refusal()


def test_a_header_in_the_tape_is_refused_as_the_bad_row_it_is() -> None:
    Path("tape.csv").write_text("id,price,qty,quote_qty,time,is_buyer_maker\n" + "\n".join(TAPE))
    assert refusal() == "tape.csv: line 1: trade id 'id' is not a whole number"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "has 0 columns, not 7"),
        ("a,up,1,1,110,90", "has 6 columns, not 7"),
        ("a,up,1,1,110,90,10,", "has 8 columns, not 7"),
        ('"a,up,1,1,110,90,10', "unexpected end of data"),
        (",up,1,1,110,90,10", "ref must not be empty"),
        ("  ,up,1,1,110,90,10", "ref must not be empty"),
        ("a\tb,up,1,1,110,90,10", "control characters"),
        ("a\x00b,up,1,1,110,90,10", "control characters"),
        ("first,down,1,1,90,110,10", "ref 'first' stands in line 2 already"),
        ("a,,1,1,110,90,10", "direction must be up or down, not ''"),
        ("a,UP,1,1,110,90,10", "direction must be up or down, not 'UP'"),
        ("a,up,0,1,110,90,10", "amount '0' must be greater than zero"),
        ("a,up,-1,1,110,90,10", "amount '-1' must be a plain positive decimal number"),
        ("a,up,,1,110,90,10", "amount ''"),
        ("a,up,1e5,1,110,90,10", "amount '1e5'"),
        ("a,up,+5,1,110,90,10", "amount '+5'"),
        ("a,up,.5,1,110,90,10", "amount '.5'"),
        ("a,up,5.,1,110,90,10", "amount '5.'"),
        ("a,up, 5,1,110,90,10", "amount ' 5'"),
        ("a,up,NaN,1,110,90,10", "amount 'NaN'"),
        ("a,up,Infinity,1,110,90,10", "amount 'Infinity'"),
        ("a,up,٣,1,110,90,10", "amount '٣'"),
        ("a,up,0.000000001,1,110,90,10", "at most 8 decimals"),
        ("a,up,1000000000000,1,110,90,10", "less than 10^12"),
        ("a,up," + "9" * 5000 + ",1,110,90,10", "amount '9999"),
        ("a,up,1,0,110,90,10", "multiplier must be a whole number from 1 to 100, not '0'"),
        ("a,up,1,101,110,90,10", "not '101'"),
        ("a,up,1,1.0,110,90,10", "not '1.0'"),
        ("a,up,1,-1,110,90,10", "not '-1'"),
        ("a,up,1,,110,90,10", "not ''"),
        ("a,up,1,1,NaN,90,10", "take_profit 'NaN'"),
        ("a,up,1,1,110,inf,10", "stop_loss 'inf'"),
        ("a,up,1,1,1.1e2,90,10", "take_profit '1.1e2'"),
        ("a,up,1,1,110,-90,10", "stop_loss '-90'"),
        ("a,up,1,1,110,0,10", "stop_loss '0' must be greater than zero"),
        ("a,up,1,1,110.0000000000001,90,10", "at most 12 decimals"),
        ("a,up,1,1,110.0000000000010001,90,10", "at most 12 decimals"),
        ("a,up,1,1,1234567890.123456,90,10", "at most 15 significant digits"),
        ("a,up,1,1,100,90,10", "take_profit: Take Profit of a deal `up` must lie above the current price 100.00"),
        ("a,up,1,1,99,90,10", "take_profit: Take Profit of a deal `up` must lie above"),
        ("a,up,1,1,110,100.0,10", "stop_loss: Stop Loss of a deal `up` must lie below"),
        ("a,down,1,1,110,,10", "take_profit: Take Profit of a deal `down` must lie below"),
        ("a,down,1,1,,90,10", "stop_loss: Stop Loss of a deal `down` must lie above"),
        ("a,up,1,1,105,105.0,10", "stop_loss: Take Profit and Stop Loss must differ."),
        ("a,up,1,1,110,90,9", "open_at_trade 9 is not in the tape"),
        ("a,up,1,1,110,90,", "open_at_trade must be a trade id, not ''"),
        ("a,up,1,1,110,90,ten", "open_at_trade must be a trade id, not 'ten'"),
        ("a,up,1,1,110,90,-10", "open_at_trade must be a trade id, not '-10'"),
        ("a,up,1,1,110,90,10.0", "open_at_trade must be a trade id, not '10.0'"),
        ("\udcff,up,1,1,110,90,10", "is not UTF-8"),
    ],
)
def test_a_bad_row_of_the_deals_is_named(row: str, reason: str) -> None:
    content = f"{HEADER}\n{GOOD}\n{row}\nthird,up,1,1,110,90,10\n"
    Path("deals.csv").write_bytes(content.encode(errors="surrogateescape"))
    assert refusal().startswith("deals.csv: line 3: ")
    assert reason in refusal()


@pytest.mark.parametrize(
    "content",
    ["", "\n", GOOD, HEADER.replace("ref", "id"), HEADER.replace(",", ";"), f"{HEADER},more", f"\n{HEADER}\n{GOOD}"],
)
def test_deals_without_their_header_are_refused(content: str) -> None:
    Path("deals.csv").write_text(content)
    assert refusal() == f"deals.csv: line 1: the header must be {HEADER}"


def test_a_deal_cannot_open_at_a_trade_that_is_dropped() -> None:
    Path("tape.csv").write_text("\n".join([*TAPE, "13,100.00,1,100,1499,True"]))
    Path("deals.csv").write_text(f"{HEADER}\na,up,1,1,110,90,13\n")
    assert refusal() == "deals.csv: line 2: open_at_trade 13 is dropped: the tape has a later time before it"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tape": "none.csv"}, "none.csv: No such file or directory"),
        ({"tape": "."}, ".: Is a directory"),
        ({"tape": os.devnull}, f"{os.devnull}: is empty"),
        ({"deals": "none.csv"}, "none.csv: No such file or directory"),
        ({"deals": "."}, ".: Is a directory"),
        ({"symbol": "BTC/USDT"}, "--symbol must be 2 to 32 letters and digits"),
        ({"symbol": ""}, "--symbol must be 2 to 32 letters and digits"),
        ({"speed": "0"}, "speed '0' is neither max nor a positive number"),
        ({"speed": "fast"}, "speed 'fast' is neither max nor a positive number"),
        ({"workers": "0"}, "--workers must be from 1 to 16"),
        ({"out": "none/closures.csv"}, "--out: there is no folder "),
        ({"out": "."}, "--out: . is no regular file"),
        ({"out": os.devnull}, f"--out: {os.devnull} is no regular file"),
        ({"out": "./deals.csv"}, "--out: deals.csv is an input file"),
        ({"out": "tape.csv"}, "--out: tape.csv is an input file"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, str], said: str) -> None:
    assert refusal(**changes).startswith(said)


def test_a_tape_that_turns_bad_after_many_rows_writes_nothing() -> None:
    rows = [f"{number},100.00,1,1,{number},True" for number in range(1, 50_000)]
    Path("tape.csv").write_text("\n".join([*rows, "50000,100.0"]))
    assert refusal() == "tape.csv: line 50000: has 2 columns, not 6 or 7"


@pytest.mark.parametrize("name", ["tape.csv", "deals.csv"])
def test_the_shell_sees_one_line_on_stderr_and_an_exit_code(name: str, run: Callable[..., str]) -> None:
    with Path(name).open("a") as file:
        file.write("rubbish\n")
    line = 4 if name == "tape.csv" else 3
    assert run().startswith(f"CommandError: {name}: line {line}: has 1 columns")


@pytest.mark.parametrize(
    ("setting", "address", "said"),
    [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none", "CommandError: OperationalError: "),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "CommandError: ConnectionError: "),
    ],
)
def test_a_server_that_cannot_be_reached_is_one_line_too(
    setting: str, address: str, said: str, run: Callable[..., str]
) -> None:
    assert run(**{setting: address}).startswith(said)


def test_without_servers_of_its_own_a_bad_file_leaves_no_embedded_ones_behind(run: Callable[..., str]) -> None:
    Path("tape.csv").write_text("rubbish")
    data_dir = Path.cwd() / "data"
    said = run(DATABASE_URL="", REDIS_URL="", SECRET_KEY="", CRYPTOCRAZE_DATA_DIR=str(data_dir))
    assert said.startswith("CommandError: tape.csv: line 1: has 1 columns")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run the command as a shell does; answers its one line."""

    def start(**settings: str) -> str:
        command = [sys.executable, str(PROJECT / "manage.py"), "replay", "tape.csv", "--symbol", "BTCUSDT"]
        done = subprocess.run(
            [*command, "--deals", "deals.csv", "--out", "closures.csv"],
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), **settings},
            check=False,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    return start
