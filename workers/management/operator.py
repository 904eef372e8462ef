"""What the operator's commands share: who types, how waiting looks, and the exit codes for scripts.

0 done · 1 refused or failed · 2 the command was typed wrongly · 3 its time was over
"""

from __future__ import annotations

import getpass
import socket
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Final, TypeVar

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError

from deals.errors import DealError
from deals.queries import current_state
from workers.audit import Actor
from workers.interrupt import Interrupted, interruptible
from workers.models import Operation
from workers.operations import Started

T = TypeVar("T")

FAILED: Final = 1
TIMED_OUT: Final = 3
LOOK_S: Final = 0.25


def me() -> Actor:
    """The user of this machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in a container
        name = "unknown"
    return Actor(f"{name}@{socket.gethostname()}", "cli")


def seconds(text: str) -> float:
    """A time-out from the command line."""
    value = float(text)
    if not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise ValueError(text)
    return value


class OperatorCommand(BaseCommand):
    """A command that controls the system. `--reason` goes into the audit log."""

    reason_required = False
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """`--reason`."""
        parser.add_argument(
            "--reason",
            required=self.reason_required,
            default=f"manage.py {self.__module__.rpartition('.')[2]}",
            help="why; kept in the audit log",
        )

    def obeyed(self, ask: Callable[[], T]) -> T:
        """What the call answers. Raises CommandError with one line when it is refused or PostgreSQL is away."""
        try:
            return ask()
        except DealError as refused:
            raise CommandError(refused.message, returncode=FAILED) from None
        except (OperationalError, InterfaceError) as error:
            raise CommandError(f"PostgreSQL does not answer: {error}", returncode=FAILED) from None

    def follow(self, begin: Callable[[], Started]) -> Operation:
        """Begin an operation and show its steps until it ends; a line that is redrawn on a terminal.

        Ctrl-C, SIGTERM and a closed terminal interrupt it: it ends as failed, not as one whose process has died. Raises
        CommandError with exit code 1 or 3 when it does not succeed.
        """
        started = self.obeyed(begin)
        line = ProgressLine(self)
        try:
            with interruptible():
                operation = self.obeyed(lambda: self._watch(started, line))
        except Interrupted:
            started.cancel()
            line.end()
            raise CommandError(f"interrupted; the system is {current_state().state}", returncode=FAILED) from None
        line.end()
        if operation.state != Operation.State.DONE:
            raise CommandError(
                f"{operation.kind} failed: {operation.error or operation.state}; the system is {current_state().state}",
                returncode=TIMED_OUT if started.timed_out else FAILED,
            )
        self.stdout.write(f"{operation.kind}: done, the system is {current_state().state}")
        return operation

    def _watch(self, started: Started, line: ProgressLine) -> Operation:
        began = time.monotonic()
        while True:
            operation = started.wait(LOOK_S)
            line.show(operation, time.monotonic() - began)
            if operation.state != Operation.State.RUNNING:
                return operation


class ProgressLine:
    """Steps as they are done, each on its line; on a terminal also one line that counts the seconds."""

    def __init__(self, command: BaseCommand) -> None:
        self._out = command.stdout
        self._shown = 0
        self._live = command.stdout.isatty()

    def show(self, operation: Operation, elapsed_s: float) -> None:
        """Write new steps, and on a terminal how long it has taken."""
        for step in operation.steps[self._shown :]:
            self.end()
            self._out.write(f"  {step['name']}: {step['outcome']}")
        self._shown = len(operation.steps)
        if self._live and operation.state == Operation.State.RUNNING:
            self._out.write(f"\r\033[K… {operation.kind}, {elapsed_s:.0f} s", ending="")
            self._out.flush()

    def end(self) -> None:
        """Clear the counting line."""
        if self._live:
            self._out.write("\r\033[K", ending="")
