"""`manage.py replay` against a brute-force oracle: byte for byte, on any tape, with any number of workers."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
import tapes
from replay_oracle import expected_closures
from servers import PROJECT, Process, wait_until

HOUR_MS = 3_600_000
COMMAND = [sys.executable, str(PROJECT / "manage.py"), "replay"]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, redis_client: redis.Redis) -> Iterator[None]:
    """Whatever a replay did and however it ended: no database, no key, no process, no file of it remains."""
    yield
    assert scratch_databases() == []
    assert list(redis_client.scan_iter("cryptocraze_replay_*")) == []
    assert scratch_processes() == {}
    assert list(tmp_path.rglob("*cryptocraze_replay_*")) == []
    assert list(tmp_path.rglob("*.part")) == []
    assert list(tmp_path.rglob("pymp-*")) == []


def scratch_databases() -> list[str]:
    with psycopg.connect(os.environ["DATABASE_URL"]) as server:
        rows = server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'cryptocraze_replay_%'")
        return [name for (name,) in rows.fetchall()]


def scratch_processes() -> dict[int, str]:
    """Processes that use a scratch of this run's servers, by id, with their command lines."""
    return processes_with(f"REDIS_URL={os.environ['REDIS_URL']}", "KEY_PREFIX=cryptocraze_replay_")


def processes_with(*beginnings: str) -> dict[int, str]:
    """Processes that have a variable with each of these beginnings, and have not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_text(errors="replace").split("\0")
            if all(any(variable.startswith(wanted) for variable in variables) for wanted in beginnings):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return {pid: command for pid, command in found.items() if command}


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    """The run's servers; temporary files go where the test can see them."""
    return {**os.environ, "TMPDIR": str(tmp_path), **changes}


def arguments(tape: Path, deals: Path, out: Path, *more: str) -> list[str]:
    return [str(tape), "--symbol", "BTCUSDT", "--deals", str(deals), "--out", str(out), *more]


def replay(
    tmp_path: Path, tape: Path, deals: Path, *more: str, **changes: str
) -> tuple[str, subprocess.CompletedProcess[str]]:
    """Run a replay to its good end; answers the closures and the finished process."""
    out = tmp_path / "closures.csv"
    command = [*COMMAND, *arguments(tape, deals, out, *more)]
    env = environment(tmp_path, **changes)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_bytes().decode(), done


@pytest.mark.load
@pytest.mark.tapes
def test_two_thousand_random_deals_on_the_recorded_tape_equal_the_oracle(tmp_path: Path, tapes_dir: Path) -> None:
    tape = tapes.read_generated(tapes_dir / "BTCUSDT-trades-2021-01-08.csv")
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=1, deals=2000)
    started_s = time.monotonic()
    closures, _ = replay(tmp_path, tape.path, deals)
    took_s = time.monotonic() - started_s
    assert closures == expected_closures(tape.path, deals)
    assert took_s < 60  # some 20 s on two free cores


@pytest.mark.load
@pytest.mark.parametrize(("places", "workers"), [(2, "1"), (8, "4")])
def test_two_thousand_random_deals_on_a_generated_tape_equal_the_oracle(
    tmp_path: Path, places: int, workers: str
) -> None:
    tape = tapes.write_tape(tmp_path / "tape.csv", seed=places, trades=2000, places=places)
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=3, deals=2000)
    closures, _ = replay(tmp_path, tape.path, deals, "--workers", workers)
    assert closures == expected_closures(tape.path, deals)


@pytest.mark.parametrize("places", [2, 8])
def test_the_result_equals_the_oracle_on_every_run_with_any_number_of_workers(tmp_path: Path, places: int) -> None:
    tape = tapes.write_tape(tmp_path / "tape.csv", seed=10 + places, trades=300, places=places)
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=4, deals=100)
    expected = expected_closures(tape.path, deals)
    assert {"take_profit", "stop_loss", "open"} <= set(re.split("[,\n]", expected))
    for workers in ("1", "4", "1"):
        closures, _ = replay(tmp_path, tape.path, deals, "--workers", workers)
        assert closures == expected


def test_a_loss_ends_at_the_amount_and_prices_are_told_as_the_files_write_them(tmp_path: Path) -> None:
    rows = [tapes.Row(number, ticks, number) for number, ticks in ((1, 10_000), (2, 10_050), (3, 9_000), (4, 9_001))]
    tape = tapes.write_rows(tmp_path / "tape.csv", rows)
    deals = tmp_path / "deals.csv"
    deals.write_text(
        f"{tapes.DEALS_HEADER}\n"
        "win,up,100,10,100.5,,1\n"  # 1000 × 0.5 % = 5, less 0.5 commission
        "floor,up,100,100,0200.000,90.000,1\n"  # 10,000 × 10 % = 1000 lost: the amount is all there is
        "down,down,0.00000001,1,90,,2\n"
        "last,up,5,1,91,,4\n"
        "none,down,5,1,,,1\n"
    )
    closures, _ = replay(tmp_path, tape.path, deals)
    assert closures == (
        "ref,direction,open_price,take_profit,stop_loss,close_price,close_reason,profit,commission,trade_id,detector\n"
        "win,up,100.00,100.5,,100.50,take_profit,4.50000000,0.50000000,2,tick\n"
        "floor,up,100.00,0200.000,90.000,90.00,stop_loss,-100.00000000,5.00000000,3,tick\n"
        "down,down,100.50,90,,90.00,take_profit,0.00000000,0.00000000,3,tick\n"
        "last,up,90.01,91,,,open,,,,\n"
        "none,down,100.00,,,,open,,,,\n"
    )
    assert closures == expected_closures(tape.path, deals)


def test_files_as_other_programs_write_them_and_relative_paths_are_understood(tmp_path: Path) -> None:
    caller, other = tmp_path / "the caller's folder", tmp_path / "résultats"
    caller.mkdir()
    other.mkdir()
    tape, deals = caller / "tape.csv", caller / "deals.csv"
    tape.write_bytes(
        codecs.BOM_UTF8
        + b'0,1.10,1,1,1735689600010866,True,True\r\n"7","1.20","1","1",1735689600010866,"True",True\r\n\r\n'
    )
    deals.write_bytes(
        codecs.BOM_UTF8
        + tapes.DEALS_HEADER.encode()
        + b'\r\n"a, ""b""",up,1,1,1.15,,0\r\n'
        + " naïve 🚀 ,down,1,1,,1.2,00\r\n".encode()
        + f"{'long' * 50},up,1,007,9,1.0,7\r\n\r\n".encode()
    )
    done = subprocess.run(
        [*COMMAND, "tape.csv", "--symbol", "ethbtc", "--deals", "./deals.csv", "--out", "../résultats/closures.csv"],
        capture_output=True,
        text=True,
        cwd=caller,
        env=environment(tmp_path, SYMBOLS="BTCUSDT"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (other / "closures.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        '"a, ""b""",up,1.10,1.15,,1.20,take_profit,0.09040909,0.00050000,7,tick',
        " naïve 🚀 ,down,1.10,,1.2,1.20,stop_loss,-0.09140909,0.00050000,7,tick",
        f"{'long' * 50},up,1.20,9,1.0,,open,,,,",
    ]
    assert sorted(path.name for path in caller.iterdir()) == ["deals.csv", "tape.csv"]


@pytest.mark.parametrize(("rows", "lines"), [("", 1), ("only,up,1,1,2,0.5,7\n", 2)])
def test_a_tape_of_one_trade_closes_nothing_and_no_deals_are_no_error(tmp_path: Path, rows: str, lines: int) -> None:
    tape, deals = tmp_path / "tape.csv", tmp_path / "deals.csv"
    tape.write_text("7,1.00,1,1,5,True")
    deals.write_text(f"{tapes.DEALS_HEADER}\n{rows}")
    closures, done = replay(tmp_path, tape, deals)
    assert closures == expected_closures(tape, deals)
    assert len(closures.splitlines()) == lines
    assert done.stdout.startswith(f"1 trades, {lines - 1} deals in ")


def test_the_progress_goes_to_stderr_and_the_summary_to_stdout(tmp_path: Path) -> None:
    tape = tapes.write_tape(tmp_path / "tape.csv", seed=5, trades=500, places=2)
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=6, deals=20)
    closures, done = replay(tmp_path, tape.path, deals)
    reasons = [line.split(",")[6] for line in closures.splitlines()[1:]]
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
    assert re.fullmatch(rf"500 trades, 20 deals in [0-9.]+ s: {counts}\n", done.stdout)
    assert "500/500" in done.stderr
    assert done.stderr.count("\r") < 10  # not a terminal: the bar is drawn now and then


def test_trades_with_decreasing_times_are_dropped_and_the_summary_says_so(tmp_path: Path) -> None:
    # Trade 2 is a little older than trade 1, trade 4 much older than trade 3; both would have closed the deal.
    rows = [(1, 100, 20_000), (2, 200, 19_999), (3, 101, 90_000), (4, 200, 1), (5, 102, 90_000), (6, 150, 90_000)]
    tape = tapes.write_rows(tmp_path / "tape.csv", [tapes.Row(*row) for row in rows])
    deals = tmp_path / "deals.csv"
    deals.write_text(f"{tapes.DEALS_HEADER}\na,up,1,1,1.02,,1\nb,up,1,1,1.4,,3\n")
    closures, done = replay(tmp_path, tape.path, deals)
    assert [line.split(",")[9] for line in closures.splitlines()[1:]] == ["5", "6"]
    assert closures == expected_closures(tape.path, deals)
    assert "dropped as the running system drops them: 1 out_of_order, 1 stale" in done.stdout


def test_monitoring_ends_after_24_hours_of_the_tape_and_gaps_of_hours_do_not_matter(tmp_path: Path) -> None:
    day = 24 * HOUR_MS
    rows = [(1, 100, 0), (2, 100, 5), (3, 101, 5 * HOUR_MS), (4, 100, day - 1), (5, 150, day), (6, 100, day + 1)]
    rows += [(7, 160, day + 4), (8, 50, day + 5), (9, 40, 5 * day), (10, 500, 6 * day)]
    tape = tapes.write_rows(tmp_path / "tape.csv", [tapes.Row(*row) for row in rows])
    lines = [tapes.DEALS_HEADER]
    for opening in (1, 2, 3, 4, 6, 8, 9):
        lines += [
            f"near-{opening},up,1,1,{'1.60' if opening > 2 else '1.01'},,{opening}",
            f"far-{opening},up,1,1,4.5,0.4,{opening}" if opening < 8 else f"far-{opening},down,1,1,0.4,4.5,{opening}",
            f"middle-{opening},up,1,1,1.45,,{opening}",
        ]
    lines = [line for line in lines if line != "far-9,down,1,1,0.4,4.5,9"]
    (tmp_path / "deals.csv").write_text("\n".join(lines) + "\n")
    closures, _ = replay(tmp_path, tape.path, tmp_path / "deals.csv")
    assert closures == expected_closures(tape.path, tmp_path / "deals.csv")
    closed_by = {line.split(",")[0]: line.split(",")[9] for line in closures.splitlines()[1:]}
    assert closed_by["near-1"] == "3"
    assert closed_by["middle-1"] == ""  # its level is reached when exactly 24 hours have run
    assert closed_by["middle-2"] == "5"  # five milliseconds younger
    assert closed_by["far-8"] == ""


@pytest.mark.load
def test_any_number_of_deals_stops_being_watched_before_the_trade_that_follows(tmp_path: Path) -> None:
    # At the last trade before the end 1,100 deals fire; 1,100 others, opened at the same trade, expire with them.
    day = 24 * HOUR_MS
    rows = [(1, 100, 0), (2, 120, day - 1), (3, 200, day), (4, 300, day + 1)]
    tape = tapes.write_rows(tmp_path / "tape.csv", [tapes.Row(*row) for row in rows])
    deals = [f"{i},up,1,1,{'1.1' if i % 2 else '1.9'},,1" for i in range(2200)]
    (tmp_path / "deals.csv").write_text("\n".join([tapes.DEALS_HEADER, *deals]) + "\n")
    closures, _ = replay(tmp_path, tape.path, tmp_path / "deals.csv")
    assert closures == expected_closures(tape.path, tmp_path / "deals.csv")
    assert closures.count(",open,") == 1100


def test_a_speed_paces_the_replay_by_the_tapes_own_times(tmp_path: Path) -> None:
    rows = [tapes.Row(number, 100 + number, number * 500) for number in range(9)]
    tape = tapes.write_rows(tmp_path / "tape.csv", rows)
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=7, deals=5)
    closures, done = replay(tmp_path, tape.path, deals, "--speed", "2")
    assert closures == expected_closures(tape.path, deals)
    seconds = re.search(r"in ([0-9.]+) s", done.stdout)
    assert seconds is not None
    assert float(seconds[1]) >= 2.0


def test_the_running_system_is_not_touched(
    tmp_path: Path, process_env: dict[str, str], redis_client: redis.Redis
) -> None:
    for key, value in {"fired": "1|BTCUSDT|1|1|1|1|1|tick", "price:BTCUSDT": "5", "celery:closures": "x"}.items():
        redis_client.hset(key, "7", value)
    tape = tapes.write_tape(tmp_path / "tape.csv", seed=8, trades=100, places=2)
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=9, deals=20)
    rows_before, keys_before = all_rows(process_env["DATABASE_URL"]), all_keys(redis_client)
    closures, _ = replay(tmp_path, tape.path, deals, DATABASE_URL=process_env["DATABASE_URL"])
    assert closures == expected_closures(tape.path, deals)
    assert all_rows(process_env["DATABASE_URL"]) == rows_before
    assert all_keys(redis_client) == keys_before


def all_rows(database_url: str) -> dict[str, str]:
    """A digest of every table and the state of every sequence."""
    found = {}
    with psycopg.connect(database_url) as server:
        tables = server.execute(
            "SELECT relname, relkind FROM pg_class "
            "WHERE relkind IN ('r', 'S') AND relnamespace = 'public'::regnamespace"
        )
        for name, kind in tables.fetchall():
            whole = psycopg.sql.SQL("SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {} t")
            last = psycopg.sql.SQL("SELECT last_value || ' ' || is_called FROM {}")
            query = (last if kind == "S" else whole).format(psycopg.sql.Identifier(name))
            found[name] = str(server.execute(query).fetchone())
    assert "deals" in found
    return found


def all_keys(client: redis.Redis) -> dict[str, object]:
    with contextlib.closing(redis.Redis.from_url(os.environ["REDIS_URL"])) as raw:
        return {key.decode(): raw.dump(key) for key in raw.scan_iter()}


@pytest.fixture
def running_replay(tmp_path: Path, redis_client: redis.Redis) -> Iterator[Callable[[], Process]]:
    """Start a replay of a tape that takes about five seconds, and answer when it has begun to feed prices."""
    rows = [tapes.Row(number, 10_000 + number % 40, number * 50) for number in range(100)]
    tape = tapes.write_rows(tmp_path / "tape.csv", rows)
    tapes.write_deals(tmp_path / "deals.csv", tape, seed=11, deals=60)
    started: list[Process] = []

    def start() -> Process:
        command = [*COMMAND, *arguments(tape.path, tmp_path / "deals.csv", tmp_path / "closures.csv", "--speed", "1")]
        started.append(Process(command, tmp_path / "log", environment(tmp_path), cwd=tmp_path))
        wait_until(lambda: list(redis_client.scan_iter("cryptocraze_replay_*:price:*")), 60, "prices are fed")
        return started[0]

    yield start
    for process in started:
        process.stop()
        print(process.output)  # noqa: T201 shown when the test fails


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_replay_takes_everything_down_and_writes_nothing(
    tmp_path: Path, running_replay: Callable[[], Process], number: signal.Signals
) -> None:
    (tmp_path / "closures.csv").write_text("from an earlier replay")
    process = running_replay()
    assert scratch_databases()
    assert scratch_processes()
    process.signal(number)
    process.signal(number)  # impatience changes nothing
    assert process.process.wait(30) == 128 + number
    assert process.output.rstrip().endswith(f"interrupted by {number.name}: nothing is written")
    assert "Traceback" not in process.output
    assert (tmp_path / "closures.csv").read_text() == "from an earlier replay"


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user can reach: PostgreSQL runs as another one when we are root."""
    with tempfile.TemporaryDirectory(prefix="cc") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("begun", ["servers.log", "progress"])
def test_an_interrupted_replay_on_temporary_servers_takes_them_down_too(
    tmp_path: Path, public_folder: Path, begun: str
) -> None:
    tape = tapes.write_rows(tmp_path / "tape.csv", [tapes.Row(1, 100, 0), tapes.Row(2, 100, 60_000)])
    deals = tapes.write_deals(tmp_path / "deals.csv", tape, seed=12, deals=3)
    command = [*COMMAND, *arguments(tape.path, deals, tmp_path / "closures.csv", "--speed", "1")]
    none = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "SECRET_KEY"), "")
    env = environment(public_folder, CRYPTOCRAZE_DATA_DIR=str(tmp_path / "no such folder"), **none)
    process = Process(command, tmp_path / "log", env, cwd=tmp_path)
    try:
        if begun == "servers.log":
            wait_until(lambda: list(public_folder.glob("*/data/servers.log")), 30, "the servers start")
        else:
            process.wait_for("0/2")
        process.signal(signal.SIGTERM)
        assert process.process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.stop()
    assert "Traceback" not in process.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deals.csv", "log", "tape.csv"]
    assert list(public_folder.iterdir()) == []
    assert processes_with(f"TMPDIR={public_folder}") == {}


def test_a_worker_that_is_killed_with_a_message_in_its_hands_is_replaced_and_the_result_is_right(
    tmp_path: Path, running_replay: Callable[[], Process], redis_client: redis.Redis
) -> None:
    process = running_replay()
    workers = [pid for pid, command in scratch_processes().items() if "celery" in command]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: any(map(redis_client.hlen, redis_client.scan_iter("cryptocraze_replay_*:fired"))), 30)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert process.process.wait(90) == 0
    expected = expected_closures(tmp_path / "tape.csv", tmp_path / "deals.csv")
    assert (tmp_path / "closures.csv").read_bytes().decode() == expected


def test_a_profit_that_no_money_field_can_hold_fails_the_replay_with_the_deal_s_name(tmp_path: Path) -> None:
    rows = [tapes.Row(1, 100, 1), tapes.Row(2, 300, 2)]
    tape = tapes.write_rows(tmp_path / "tape.csv", rows)
    deals = tmp_path / "deals.csv"
    deals.write_text(f"{tapes.DEALS_HEADER}\nsmall,up,1,1,2,,1\nhuge,up,999999999999,100,2,,1\n")
    done = subprocess.run(
        [*COMMAND, *arguments(tape.path, deals, tmp_path / "closures.csv")],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"CommandError: deal huge of line 3 is dead: numeric field overflow", done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "closures.csv").exists()
    for log in tmp_path.glob("cryptocraze_replay_*/worker-0.log"):  # kept, and said where: they tell why
        assert str(log.parent) in done.stderr
        shutil.rmtree(log.parent)
