"""`manage.py dead_letters list|requeue|discard`: deals that could not be settled."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.core.management.base import CommandError

from deals.money import plain
from workers import dead_letters
from workers.management.operator import FAILED, OperatorCommand, me
from workers.models import DeadLetter


class Command(OperatorCommand):
    help = (
        "list: show them. requeue: try to close the deals again, at the price that fired. discard: take the deals "
        "out of monitoring for good and tell their users. Exit code 0: done for all, 1: refused for at least one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|requeue|discard")
        listing = actions.add_parser("list", help="show letters, newest first")
        listing.add_argument("--state", choices=DeadLetter.State.values, help="only these; default: failed")
        listing.add_argument("--all", action="store_true", help="of every state")
        listing.add_argument("--limit", type=int, default=50, help="how many at most")
        listing.add_argument("--json", action="store_true", help="as one JSON array")
        for name in ("requeue", "discard"):
            action = actions.add_parser(name)
            chosen = action.add_mutually_exclusive_group(required=True)
            chosen.add_argument("ids", nargs="*", type=int, default=[], metavar="ID", help="numbers of letters")
            chosen.add_argument("--all", action="store_true", help="every failed one")
            super().add_arguments(action)

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["action"] == "list":
            self.obeyed(lambda: self._list(options))
        else:
            self._change(options)

    def _list(self, options: dict[str, Any]) -> None:
        letters = DeadLetter.objects.select_related("deal").order_by("-last_failed_at", "-pk")
        if not options["all"]:
            letters = letters.filter(state=options["state"] or DeadLetter.State.FAILED)
        rows = [_row(letter) for letter in letters[: max(0, options["limit"])]]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        for row in rows:
            self.stdout.write(
                f"{row['id']:>6}  {row['state']:<9} deal {row['dealId']} {row['symbol']} at {row['price']}, "
                f"{row['attempts']} attempts until {row['lastFailedAt']}: {row['error']}"
            )
        self.stdout.write(f"{len(rows)} dead letters")

    def _change(self, options: dict[str, Any]) -> None:
        act = dead_letters.requeue if options["action"] == "requeue" else dead_letters.discard
        ids: list[int] = options["ids"]
        if options["all"]:
            failed = DeadLetter.objects.filter(state=DeadLetter.State.FAILED).order_by("pk")
            ids = self.obeyed(lambda: list(failed.values_list("pk", flat=True)))
        refused = 0
        for letter_id in ids:
            try:
                letter = self.obeyed(partial(act, letter_id, me(), options["reason"]))
            except CommandError as error:
                refused += 1
                self.stderr.write(f"{letter_id}: {error}")
            else:
                self.stdout.write(f"{letter_id}: {letter.state}")
        if refused:
            raise CommandError(f"{refused} of {len(ids)} were refused", returncode=FAILED)


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.pk,
        "state": letter.state,
        "dealId": letter.deal_id,
        "symbol": letter.deal.symbol,
        "price": plain(letter.price),
        "attempts": letter.attempts,
        "firstFailedAt": letter.first_failed_at.isoformat(),
        "lastFailedAt": letter.last_failed_at.isoformat(),
        "error": f"{letter.error_class}: {letter.error.splitlines()[0] if letter.error else ''}",
    }
