"""`manage.py export_user USER [--output FILE]`: everything that is held of a person, as JSON."""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from workers import audit
from workers.management.operator import FAILED, OperatorCommand, me
from workers.management.user_argument import add_user, user_id_of
from workers.personal_export import export_user


class Command(OperatorCommand):
    help = (
        "Write everything personal that is held of a user as JSON: the person, account, deals, ledger, notifications, "
        "history, and what the audit log says. Recorded in the audit log. Exit code 0: complete, 1: not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_user(parser)
        parser.add_argument("--output", type=Path, help="a file, readable by its owner only; default: standard output")
        super().add_arguments(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        user_id = self.obeyed(lambda: user_id_of(options))
        self.obeyed(lambda: self._export(user_id, options["output"]))
        audit.record(me(), "export_user", target=f"user {user_id}", reason=options["reason"])

    def _export(self, user_id: int, output: Path | None) -> None:
        if output is None:
            for piece in export_user(user_id):
                self.stdout.write(piece, ending="")
            return
        try:
            write_whole(output, export_user(user_id))
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}", returncode=FAILED) from None
        self.stderr.write(f"written: {output}")


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a file that is there whole or not at all, with mode 0600. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.writelines(pieces)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
