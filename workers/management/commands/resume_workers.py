"""`manage.py resume_workers`: run again, watching every deal from this moment on."""

from __future__ import annotations

from typing import Any

from workers import control
from workers.management.operator import OperatorCommand, me


class Command(OperatorCommand):
    help = (
        "Run again. What had fired before keeps its price; what crossed its trigger and came back meanwhile stays "
        "open; what still lies beyond closes at the next price. Exit code 0: running, 1: refused or failed."
    )

    def handle(self, *_args: Any, **options: Any) -> None:
        self.follow(lambda: control.resume(options["reason"], me()))
