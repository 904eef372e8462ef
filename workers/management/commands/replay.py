"""`manage.py replay`: a recorded tape through the real path, in a scratch database, exact to the digit."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deals.models import Deal
from workers.replay.drive import Replay, ReplayError, Result
from workers.replay.plan import PlanError, PlannedDeal, Tape, read_plan, read_tape
from workers.replay.scratch import scratch
from workers.sources.errors import SourceError
from workers.sources.tape import TapeSource, parse_speed

HEADER = [
    *("ref", "direction", "open_price", "take_profit", "stop_loss"),
    *("close_price", "close_reason", "profit", "commission", "trade_id", "detector"),
]
INSIDE = "CRYPTOCRAZE_REPLAY_INSIDE"


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
        parser.add_argument("--workers", default=1, type=int, metavar="N", help="worker processes, 1 to 16; default 1")

    def handle(self, *_args: Any, **options: Any) -> None:
        symbol = options["symbol"].upper()
        if re.fullmatch(r"[A-Z0-9]{2,32}", symbol) is None:
            raise CommandError("--symbol must be 2 to 32 letters and digits")
        if not 1 <= options["workers"] <= 16:  # noqa: PLR2004 - said in the help
            raise CommandError("--workers must be from 1 to 16")
        if not options["out"].absolute().parent.is_dir():
            raise CommandError(f"--out: there is no folder {options['out'].absolute().parent}")
        try:
            speed = parse_speed(options["speed"])
            tape = read_tape(options["tape"], symbol)
            plan = read_plan(options["deals"], tape)
            if INSIDE not in os.environ:
                self._run_in_scratch(symbol, options)
                return
            result = Replay(tape, plan, symbol, TapeSource(options["tape"], symbol, speed)).run()
        except (SourceError, PlanError, ReplayError) as error:
            raise CommandError(str(error)) from None
        write_closures(options["out"], plan, tape, result)
        self.stdout.write(summary(tape, result))

    def _run_in_scratch(self, symbol: str, options: dict[str, Any]) -> None:
        arguments = [str(options["tape"].absolute()), "--symbol", symbol, "--deals", str(options["deals"].absolute())]
        arguments += ["--out", str(options["out"].absolute()), "--speed", options["speed"]]
        with scratch(symbol, options["workers"]) as env:
            command = [sys.executable, "manage.py", "replay", *arguments]
            done = subprocess.run(command, env=env | {INSIDE: "1"}, cwd=settings.BASE_DIR, check=False)
            if done.returncode:
                raise CommandError("the replay failed", returncode=done.returncode)


def write_closures(path: Path, plan: list[PlannedDeal], tape: Tape, result: Result) -> None:
    """Write one row a deal, in the order of the plan; prices with the decimals of the files they came from."""
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HEADER)
        rows.writerows(_row(planned, result.deals[planned.ref], tape) for planned in plan)
    unfinished.replace(path)


def _row(planned: PlannedDeal, deal: Deal, tape: Tape) -> list[str]:
    opened = [
        planned.ref,
        deal.direction,
        _like(deal.open_price, planned.trade.price),
        "" if deal.take_profit is None else _like(deal.take_profit, planned.take_profit),
        "" if deal.stop_loss is None else _like(deal.stop_loss, planned.stop_loss),
    ]
    if deal.close_reason is None:
        return [*opened, "", "open", "", "", "", ""]
    trade_id = deal.close_trade_id
    trade = None if trade_id is None else tape.accepted.get(trade_id)
    if trade is None:
        raise CommandError(f"{planned.ref} was closed by trade {trade_id}, which the tape does not hold")
    return [
        *opened,
        _like(deal.close_price, trade.price),
        deal.close_reason,
        f"{deal.profit:.8f}",
        f"{deal.commission:.8f}",
        str(trade_id),
        str(deal.detector),
    ]


def _like(value: Decimal, text: str) -> str:
    """A number from the database, with as many decimals as the text it came from."""
    return format(value.quantize(Decimal(text)), "f")


def summary(tape: Tape, result: Result) -> str:
    """What happened, in a few lines."""
    reasons = Counter(deal.close_reason or "open" for deal in result.deals.values())
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
