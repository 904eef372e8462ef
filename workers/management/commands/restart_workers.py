"""`manage.py restart_workers`: drain, replace the worker pools, rebuild the book, run again, prove it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from workers import control
from workers.management.operator import OperatorCommand, me, seconds


class Command(OperatorCommand):
    help = (
        "Drain, replace the worker pools, rebuild the trigger book from PostgreSQL, run again and close a synthetic "
        "deal as proof. Exit code 0: done, 1: refused or failed (the system stays stopped), 3: a step took too long."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--timeout", type=seconds, default=control.DRAIN_TIMEOUT_S, help="seconds to wait for what is in flight"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        self.follow(lambda: control.restart(options["reason"], me(), timeout_s=options["timeout"]))
