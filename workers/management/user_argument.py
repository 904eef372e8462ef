"""How a command is told which user is meant: by name, or by number, which is what stays of an erased one."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError

from workers.management.operator import FAILED


def add_user(parser: ArgumentParser) -> None:
    """USER and `--id`."""
    parser.add_argument("user", metavar="USER", help="user name; with --id the user's number")
    parser.add_argument("--id", action="store_true", help="USER is a number")


def user_id_of(options: dict[str, Any]) -> int:
    """The number of the user who is meant. Raises CommandError with exit code 1 when there is none."""
    given: str = options["user"]
    if options["id"] and not (given.isascii() and given.isdigit()):
        raise CommandError(f"--id needs a number, not {given!r}", returncode=FAILED)
    chosen = {"pk": int(given)} if options["id"] else {"username": given}
    found = get_user_model().objects.filter(**chosen).values_list("pk", flat=True).first()
    if found is None:
        hint = "" if options["id"] else " by that name; an erased user is named by number: --id"
        raise CommandError(f"there is no such user{hint}", returncode=FAILED)
    return int(found)
