"""`manage.py drain_workers`: stop firing and sweeping, finish what is in flight."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from kombu.exceptions import OperationalError as BrokerError

from workers import control, pools
from workers.management.operator import FAILED, OperatorCommand, me, seconds


class Command(OperatorCommand):
    help = (
        "Stop firing, sweeping, opening and arming, and finish what is in flight. The processes stay up, idle. Exit "
        "code 0: done, 1: refused or failed, 3: something still ran after the timeout; it is named, and goes on ending."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--timeout", type=seconds, default=control.DRAIN_TIMEOUT_S, help="seconds to wait for what is in flight"
        )
        parser.add_argument(
            "--terminate",
            action="store_true",
            help="when all is drained, also end the worker processes (a supervisor may start new ones: they stay idle)",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        self.follow(lambda: control.shutdown(options["reason"], me(), timeout_s=options["timeout"]))
        if options["terminate"]:
            self.stdout.write(self._terminate())

    def _terminate(self) -> str:
        try:
            names = pools.alive()
            if names:
                pools.end_workers(names)
        except (BrokerError, ConnectionError) as error:
            raise CommandError(f"the workers could not be told: {error}", returncode=FAILED) from None
        return f"ended: {', '.join(names)}" if names else "no worker was running"
