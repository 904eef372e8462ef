"""`python -m bench` at a tiny size: servers, processes and deals of its own, figures, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from servers import PROJECT, wait_until

COMMAND = [sys.executable, "-W", "ignore::RuntimeWarning", "-m", "bench", "mass", "--deals", "300", "--symbols", "3"]


def _processes_of(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended since
            continue
    return found


@pytest.mark.timeout(300)  # it starts every process of the system, beside whatever else runs
def test_the_bench_measures_a_mass_trigger_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as short:
        scratch = Path(short)
        scratch.chmod(0o777)
        done = subprocess.run(
            [*COMMAND, "--workers", "1", "--results", str(tmp_path)],
            cwd=PROJECT, env=os.environ | {"TMPDIR": short}, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(scratch.iterdir()) == []
        assert _processes_of(scratch) == []
    (lines,) = tmp_path.glob("bench-*.jsonl")
    about, *figures = [json.loads(line) for line in lines.read_text().splitlines()]
    assert about["about"]["postgresql"]["fsync"] == "on"
    assert about["about"]["valkey"]["appendonly"] == "yes"
    measured = {figure["what"]: figure for figure in figures}
    closures = measured["300 in one tick"]
    span = measured["300: tick to last commit"]
    assert closures["value"] * span["value"] / 1000 == pytest.approx(300)
    assert closures["must"] == 15_000
    assert "300 in one tick" in done.stdout


def test_ctrl_c_stops_what_the_bench_has_started(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cc-bench-") as short:
        scratch = Path(short)
        scratch.chmod(0o777)
        log = tmp_path / "log"
        with log.open("wb") as file:
            bench = subprocess.Popen(
                [*COMMAND, "--results", str(tmp_path)],
                cwd=PROJECT, env=os.environ | {"TMPDIR": short}, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(lambda: "servers run" in log.read_text(), 60, "the servers run")
            bench.send_signal(signal.SIGINT)
            assert bench.wait(60) == 128 + signal.SIGINT, log.read_text()
        finally:
            bench.kill()
            bench.wait()
        assert list(scratch.iterdir()) == []
        assert _processes_of(scratch) == []
