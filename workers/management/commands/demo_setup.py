"""`manage.py demo_setup`: the operator and the traders of the demo. Running it again changes nothing."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from deals import services

TRADERS: Final = ("ada", "grace", "katherine", "linus", "satoshi")
FUNDING: Final = Decimal(1_000_000)


class Command(BaseCommand):
    help = "Create the demo's operator (admin / admin) and its traders (password: demo)."

    def handle(self, *_args: Any, **_options: Any) -> None:
        if os.environ.get("DEMO") != "true":
            raise CommandError("these accounts have public passwords: only `make demo` creates them (DEMO=true)")
        users = get_user_model().objects
        if not users.filter(username="admin").exists():
            users.create_superuser("admin", password="admin")  # noqa: S106 - the demo's public password
        for name in TRADERS:
            trader = users.filter(username=name).first() or users.create_user(name, password="demo")  # noqa: S106 - the same
            services.create_account(trader.pk, balance=FUNDING)
        self.stdout.write(f"admin and {len(TRADERS)} traders are there")
