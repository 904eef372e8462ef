"""`manage.py workers_status [--watch] [--json]`: what the system does at this moment."""

from __future__ import annotations

import contextlib
import json
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils import timezone

from workers.interrupt import Interrupted, interruptible
from workers.management.operator import FAILED
from workers.status import snapshot

EVERY_S = 2.0


class Command(BaseCommand):
    help = "Show state, health, deals, book, prices, queues, workers and dead letters. Exit code 0: running, 1: not."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
        parser.add_argument("--json", action="store_true", help="one JSON object (with --watch: one a line)")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["watch"]:
            self._watch(as_json=options["json"])
            return
        status = snapshot()
        self.stdout.write(json.dumps(status, indent=2) if options["json"] else table(status))
        if status["system"].get("state") != "running":
            raise CommandError(f"the system is {_state(status)}", returncode=FAILED)

    def _watch(self, *, as_json: bool) -> None:
        live = self.stdout.isatty()
        with contextlib.suppress(Interrupted), interruptible():
            while True:
                status = snapshot()
                connection.close()  # so that a restarted PostgreSQL is found again
                if as_json:
                    self.stdout.write(json.dumps(status))
                else:
                    head = "\033[H\033[J" if live else ""
                    self.stdout.write(f"{head}{timezone.now():%H:%M:%S} UTC\n{table(status)}")
                self.stdout.flush()
                time.sleep(EVERY_S)


def table(status: dict[str, Any]) -> str:
    """The snapshot for a person, a line a subject."""
    rows = [(name, _cell(name, value)) for name, value in status.items()]
    return "\n".join(f"{_words(name):<14}{text}" for name, text in rows)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, dict) and "error" in value and len(value) == 1:
        return f"DOES NOT ANSWER  {value['error']}"
    if name == "workers":
        return ", ".join(value) if value else "NONE"
    if name == "operation":
        return _operation(value)
    if name == "health":
        return "\n".join([value["status"], *(f"{'':14}{part}: {reason}" for part, reason in value["wrong"].items())])
    if not value:
        return "none"
    told = {key: shown for key, shown in value.items() if shown is not False and shown not in ("", [])}
    return "   ".join(f"{_words(key)} {_shown(shown)}" for key, shown in told.items())


def _operation(value: dict[str, Any] | None) -> str:
    if value is None:
        return "none yet"
    parts = [f"{value['id']} {value['kind']} {value['state']}", value["step"], f"by {value['requestedBy']}"]
    return ", ".join(part for part in [*parts, value["error"]] if part)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "–" if value is None else str(value)


def _state(status: dict[str, Any]) -> str:
    return str(status["system"].get("state", "unknown: PostgreSQL does not answer"))


def _words(name: str) -> str:
    """camelCase as words."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
