"""`manage.py sweep [--loop]`: find what is due and close it in this process, without workers, beat or broker."""

from __future__ import annotations

import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from redis.exceptions import RedisError

from deals.errors import Unavailable
from deals.models import WATCHED, Deal, Status, SystemState
from deals.queries import current_state
from workers import reconcile, sweep, windows
from workers.clock import WALL_CLOCK
from workers.closing import Closer
from workers.management.operator import FAILED, TIMED_OUT
from workers.retry import DATABASE_ERRORS

EVERY_S: Final = 2.0
PATIENCE_S: Final = 10.0
AGAIN_S: Final = 0.2
WITHOUT_REDIS: Final = (
    "Redis does not answer: the prices are there, and without prices nothing can be found. A prices process goes on "
    "alone; start one if none runs: manage.py run_prices"
)


class Trouble(Exception):
    """Why a sweep could not do its work, in one sentence."""


class Command(BaseCommand):
    help = (
        "Sweep once: close what has fired and what the prices in Redis have reached, in this process; arm what is "
        "pending, rebuild a lost book. Needs PostgreSQL, Redis and fresh prices; neither workers nor beat nor broker. "
        "Exit code 0: done, 1: it could not, 3: another sweep was at work for 10 s."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--loop", action="store_true", help="every two seconds, until SIGTERM or Ctrl-C (code 0)")

    def handle(self, *_args: Any, **options: Any) -> None:
        if settings.STATIC_ONLY:
            raise CommandError("STATIC_ONLY is true: deals are not watched.")
        self._closer = Closer()
        self._said = ""
        self._ending = threading.Event()
        if options["loop"]:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._ending.set())
            self._loop()
        else:
            self._once()

    def _once(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        try:
            while (report := self._sweep()).skipped:
                if time.monotonic() > deadline:
                    raise CommandError("another sweep is at work", returncode=TIMED_OUT)
                time.sleep(AGAIN_S)
        except Trouble as trouble:
            raise CommandError(str(trouble), returncode=FAILED) from None
        self.stdout.write(self._done(report))
        if stale := self._stale_symbols():
            raise CommandError(stale, returncode=FAILED)

    def _loop(self) -> None:
        self.stdout.write("sweeping every 2 s until SIGTERM or Ctrl-C")
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                report = self._sweep()
                if self._closer.closed or report.armed or report.expired:
                    self.stdout.write(self._done(report))
                self._say(self._stale_symbols())
            except Trouble as trouble:
                self._say(str(trouble))
            connection.close()  # so that a restarted PostgreSQL is found again
            self._ending.wait(max(AGAIN_S, EVERY_S - (time.monotonic() - began)))
        self.stdout.write("ended")

    def _say(self, trouble: str) -> None:
        """What is wrong once, and once that it is right again."""
        if trouble != self._said:
            self.stdout.write(trouble or "in order again")
        self._said = trouble

    def _sweep(self) -> sweep.SweepReport:
        """One sweep. Raises Trouble."""
        self._closer.closed = 0
        try:
            state = current_state().state
            if state != SystemState.State.RUNNING:
                raise Trouble(f"the system is {state}: nothing is swept until an operator resumes it")
            report = sweep.sweep(close=self._closer.close)
            sweep.remember(report)
            if report.book_lost:
                self.stdout.write(f"the trigger book was lost: {reconcile.reconcile()} deals armed again")
        except Unavailable as refused:
            raise Trouble(refused.message) from None
        except RedisError as error:
            raise Trouble(f"{WITHOUT_REDIS} ({error})") from None
        except DATABASE_ERRORS as error:
            raise Trouble(f"PostgreSQL does not answer: {error}") from None
        return report

    def _done(self, report: sweep.SweepReport) -> str:
        return (
            f"closed {self._closer.closed} (had fired {report.resent}, found {report.found}), armed {report.armed}, "
            f"expired {report.expired}, {report.duration_ms} ms"
        )

    def _stale_symbols(self) -> str:
        """Which watched symbols were not looked at, in a sentence; empty when all were. Raises Trouble."""
        try:
            now_ms = WALL_CLOCK.now_ms()
            fresh = {window.symbol for window in windows.from_redis(settings.SYMBOLS, {}) if window.is_fresh(now_ms)}
        except RedisError as error:
            raise Trouble(f"{WITHOUT_REDIS} ({error})") from None
        watched = Deal.objects.filter(status=Status.OPEN, monitoring__in=WATCHED)
        stale = [name for name in settings.SYMBOLS if name not in fresh and watched.filter(symbol=name).exists()]
        return f"no fresh price of {', '.join(stale)}: nothing closes there; does run_prices run?" if stale else ""
