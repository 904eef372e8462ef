"""`manage.py erase_user USER --yes`: personal data out, ledger kept."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from workers.erasure import erase_user
from workers.management.operator import FAILED, OperatorCommand, me
from workers.management.user_argument import add_user, user_id_of


class Command(OperatorCommand):
    help = (
        "Erase a user's personal data for good: name, e-mail, password, tokens, sessions, addresses. Account, deals "
        "and ledger stay under a bare number. Refused while the user has open deals. Doing it twice changes nothing. "
        "Exit code 0: nothing personal is left, 1: refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_user(parser)
        parser.add_argument("--yes", action="store_true", help="really; it cannot be undone")
        super().add_arguments(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        user_id = self.obeyed(lambda: user_id_of(options))
        if not options["yes"]:
            text = f"this would erase user {user_id} for good: export_user first if the data are wanted, then say --yes"
            raise CommandError(text, returncode=FAILED)
        erased = self.obeyed(lambda: erase_user(user_id, me(), options["reason"]))
        if not erased:
            self.stdout.write(f"user {user_id}: nothing was left to erase")
            return
        self.stdout.write(f"user {user_id}: erased " + ", ".join(f"{kind} {count}" for kind, count in erased.items()))
