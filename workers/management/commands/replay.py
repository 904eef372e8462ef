"""`manage.py replay`: a recorded tape through the real path, in a scratch database, exact to the digit."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.errors import DealError
from workers.interrupt import Interrupted, interruptible
from workers.replay.closures import unfinished_path, write_closures
from workers.replay.drive import Replay, Result
from workers.replay.errors import PlanError, ReplayError
from workers.replay.plan import PlannedDeal, Tape, plan_deals, read_deals, read_tape
from workers.replay.processes import run_beside, worker_processes
from workers.replay.scratch import scratch
from workers.retry import DATABASE_ERRORS
from workers.sources.errors import SourceError
from workers.sources.tape import TapeSource, parse_speed

INSIDE = "CRYPTOCRAZE_REPLAY_INSIDE"
SERVER_TROUBLE = (psycopg.Error, *DATABASE_ERRORS, RedisError, BrokerError, DealError)
MOST_WORKERS = 16


class Command(BaseCommand):
    help = (
        "Replay a recorded tape (Binance public trades, CSV without header) with deals that open on the way, through "
        "the real path: price board and book in Redis, Celery workers, PostgreSQL; all of it scratch."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("tape", type=Path, metavar="TAPE")
        parser.add_argument("--symbol", required=True, help="the tape's symbol, for example BTCUSDT")
        parser.add_argument("--deals", required=True, type=Path, metavar="DEALS")
        parser.add_argument("--out", required=True, type=Path, metavar="CLOSURES")
        parser.add_argument("--speed", default="max", metavar="max|N", help="N times the tape's own pace; default max")
        parser.add_argument(
            "--workers", default=1, type=int, metavar="N", help=f"worker processes, 1 to {MOST_WORKERS}; default 1"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        symbol = _checked_symbol(options["symbol"])
        if not 1 <= options["workers"] <= MOST_WORKERS:
            raise CommandError(f"--workers must be from 1 to {MOST_WORKERS}")
        out = _checked_out(options["out"], options["tape"], options["deals"])
        try:
            if INSIDE in os.environ:
                self._run(symbol, out, options)
            else:
                with interruptible():
                    _run_in_scratch(symbol, out, options)
        except (SourceError, PlanError, ReplayError) as error:
            raise CommandError(str(error)) from None
        except Interrupted as signal:
            raise CommandError(f"{signal}: nothing is written", returncode=128 + signal.number) from None
        except SERVER_TROUBLE as error:
            raise CommandError(f"{type(error).__name__}: {_first_line(error)}") from error
        except OSError as error:
            raise CommandError(f"{error.filename or out}: {error.strerror}") from error

    def _run(self, symbol: str, out: Path, options: dict[str, Any]) -> None:
        speed = parse_speed(options["speed"])
        tape, plan = _read(options["tape"], symbol, options["deals"])
        source = TapeSource(options["tape"], symbol, speed)
        result = Replay(tape, plan, symbol, source, paced=speed != "max").run()
        write_closures(out, options["tape"], list(zip(plan, result.deals, strict=True)))
        self.stdout.write(summary(tape, result))


def _checked_symbol(text: str) -> str:
    symbol = text.upper()
    if re.fullmatch(r"[A-Z0-9]{2,32}", symbol) is None:
        raise CommandError("--symbol must be 2 to 32 letters and digits")
    return symbol


def _checked_out(out: Path, *inputs: Path) -> Path:
    """Where the closures go, links followed: the file is replaced, never the link."""
    target = out.resolve()
    if not target.parent.is_dir():
        raise CommandError(f"--out: there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        raise CommandError(f"--out: {out} is no regular file")
    if not os.access(target.parent, os.W_OK):
        raise CommandError(f"--out: the folder {target.parent} cannot be written to")
    if target in {path.resolve() for path in inputs}:
        raise CommandError(f"--out: {out} is an input file")
    return target


def _read(tape_path: Path, symbol: str, deals_path: Path) -> tuple[Tape, list[PlannedDeal]]:
    rows = read_deals(deals_path)
    tape = read_tape(tape_path, symbol, {row.open_at_trade for row in rows})
    return tape, plan_deals(deals_path, rows, tape)


def _run_in_scratch(symbol: str, out: Path, options: dict[str, Any]) -> None:
    """Run this command again inside a scratch, after all that can be wrong with its input has been looked for."""
    parse_speed(options["speed"])
    _read(options["tape"], symbol, options["deals"])
    arguments = ["replay", str(options["tape"].absolute()), "--symbol", symbol]
    arguments += ["--deals", str(options["deals"].absolute()), "--out", str(out), "--speed", options["speed"]]
    with scratch(symbol) as made, worker_processes(made, options["workers"]) as workers:
        try:
            run_beside(workers, arguments, made.env | {INSIDE: "1"})
        finally:
            unfinished_path(out).unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def summary(tape: Tape, result: Result) -> str:
    """What happened, in a few lines."""
    reasons = Counter(deal.close_reason or "open" for deal in result.deals)
    lines = [
        f"{tape.trades} trades, {len(result.deals)} deals in {result.seconds:.1f} s: "
        + (", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none")
    ]
    if tape.dropped:
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(tape.dropped.items()))
        lines.append(f"trades dropped as the running system drops them: {dropped}")
    if result.resent:
        lines.append(f"messages sent again: {result.resent}")
    return "\n".join(lines)
