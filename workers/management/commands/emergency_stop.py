"""`manage.py emergency_stop --reason …`: when it has answered, no deal closes until someone resumes."""

from __future__ import annotations

from typing import Any

from workers import control
from workers.management.operator import OperatorCommand, me


class Command(OperatorCommand):
    help = "Stop at once: when it has answered, no deal opens or closes until resume_workers. Exit code 0: stopped."
    reason_required = True

    def handle(self, *_args: Any, **options: Any) -> None:
        operation = self.obeyed(lambda: control.emergency_stop(options["reason"], me()))
        self.stdout.write(f"emergency_stop: {operation.steps[0]['outcome']}; no deal closes until resume_workers")
