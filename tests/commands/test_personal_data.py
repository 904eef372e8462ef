"""export_user and erase_user: everything of a person comes out, everything of a person goes, the ledger stays."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from domain import at_once, errors_of
from factories import client_of, close_deal, everything, make_account, make_deal, make_user
from rest_framework.authtoken.models import Token

from deals.errors import DealError, NotFound
from deals.models import Account, Deal, LedgerEntry
from deals.settlement import Due, settle
from workers import audit, operations, system
from workers.audit import Actor
from workers.models import AuditEntry, Operation
from workers.self_check import USERNAME as SELF_CHECK_USER

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = ("ada.lovelace", "ada@example.org", "Augusta", "King-Noel", "10.1.2.3", "my-own-order-1", "Ada rang me")


@pytest.fixture
def ada(settings: Any) -> User:
    """A trader and operator who has left traces everywhere: two closed deals, a log-in, a token, an operation."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    user = make_user(
        "ada.lovelace", email="ada@example.org", password="pass word 1", first_name="Augusta", last_name="King-Noel",
        is_staff=True,
    )  # fmt: skip
    user.groups.add(Group.objects.get_or_create(name="support")[0])
    account = make_account(user=user)
    system.refresh_state()
    close_deal(make_deal(account, client_id="my-own-order-1"))
    deal = close_deal(make_deal(account))
    assert Client().login(username="ada.lovelace", password="pass word 1")
    Token.objects.create(user=user)
    herself = Actor(user.username, "10.1.2.3", user.pk)
    operations.record_done(Operation.Kind.EMERGENCY_STOP, "exercise", herself, [("halt", "halted")])
    audit.record(Actor("boss", "10.9.9.9", 0), "close", target=f"deal {deal.pk}", reason="Ada rang me")
    LogEntry.objects.create(
        user=user, content_type=ContentType.objects.get_for_model(User), object_id=str(user.pk),
        object_repr="ada.lovelace", action_flag=CHANGE, action_time=timezone.now(),
    )  # fmt: skip
    return user


def say(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refused(*command: str) -> str:
    """What a command that ends with exit code 1 says."""
    with pytest.raises(CommandError) as error:
        say(*command)
    assert error.value.returncode == 1
    return str(error.value)


def whole_database() -> str:
    """Every row of every table, as text."""
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
        rows = []
        for name in names:
            cursor.execute(f'SELECT t::text FROM "{name}" AS t')  # noqa: S608 - names of our own tables
            rows += [f"{name}: {row[0]}" for row in cursor.fetchall()]
    return "\n".join(rows)


# --- export ---------------------------------------------------------------------------------------------------------


def test_an_export_holds_everything_of_the_person_nothing_of_others_and_no_credential(ada: User) -> None:
    token = Token.objects.get(user=ada).key
    theirs = close_deal(make_deal(make_account(user=make_user("somebody.else")), client_id="not-hers"))
    text = say("export_user", "ada.lovelace")
    found: dict[str, Any] = json.loads(text)
    assert (found["user"]["username"], found["user"]["email"]) == ("ada.lovelace", "ada@example.org")
    assert found["user"]["groups"] == ["support"]
    assert found["accounts"][0]["closedDeals"] == 2
    assert [deal["clientId"] for deal in found["deals"]] == ["my-own-order-1", None]
    assert found["deals"][0]["amount"] == "100"
    assert [entry["kind"] for entry in found["ledger"]] == ["funding", "open", "close", "open", "close"]
    assert [event["kind"] for event in found["dealEvents"]] == ["opened", "closed"] * 2
    assert [told["kind"] for told in found["notifications"]] == ["deal_closed"] * 2
    assert all(told["publishedAt"] for told in found["notifications"])
    assert (len(found["tokens"]), len(found["sessions"]), found["deadLetters"]) == (1, 1, [])
    assert [(row["action"], row["source"]) for row in found["auditBy"]] == [("emergency_stop", "10.1.2.3")]
    assert [(row["action"], row["reason"]) for row in found["auditAbout"]] == [("close", "Ada rang me")]
    assert [row["requestedBy"] for row in found["operations"]] == ["ada.lovelace"]
    assert theirs.pk not in [deal["id"] for deal in found["deals"]]
    assert [name for name in ("not-hers", "somebody.else") if name in text] == []
    assert "boss" not in text, "who did it is somebody else's personal data"
    assert token not in text
    assert ada.password not in text
    assert Session.objects.get().pk not in text


def test_an_exported_history_says_when_a_deal_fired(ada: User) -> None:
    deal = make_deal(Account.objects.get(user=ada), take_profit="110")
    at = timezone.now()
    assert settle([Due(deal.pk, deal.watch_version, Decimal(111), "tick", 7, at, at, at)]).closed
    events = json.loads(say("export_user", "ada.lovelace"))["dealEvents"]
    fired, closed = (event for event in events[-2:] if event["dealId"] == deal.pk)
    assert (fired["kind"], fired["at"], fired["price"], closed["kind"]) == ("fired", at.isoformat(), "111", "closed")


def test_an_exported_file_is_whole_for_its_owner_only_and_recorded_in_the_audit_log(ada: User, tmp_path: Path) -> None:
    target = tmp_path / "ada.json"
    assert say("export_user", "ada.lovelace", "--output", str(target), "--reason", "she asked") == ""
    assert json.loads(target.read_text())["user"]["id"] == ada.pk
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]
    entry = AuditEntry.objects.get(action="export_user")
    assert (entry.target, entry.reason) == (f"user {ada.pk}", "she asked")


def test_a_file_that_cannot_be_written_is_named(ada: User, tmp_path: Path) -> None:
    said = refused("export_user", "ada.lovelace", "--output", str(tmp_path / "nowhere" / "ada.json"))
    assert said.endswith("ada.json cannot be written: No such file or directory")
    assert not AuditEntry.objects.filter(action="export_user").exists()


@pytest.mark.parametrize("command", [["export_user"], ["erase_user", "--yes"]])
def test_an_unknown_user_is_an_error(command: list[str]) -> None:
    assert refused(*command, "nobody").startswith("there is no such user by that name")
    assert refused(*command, "987654", "--id") == "there is no such user"
    assert refused(*command, "nobody", "--id") == "--id needs a number, not 'nobody'"


# --- erase ----------------------------------------------------------------------------------------------------------


def test_erasing_leaves_nothing_personal_anywhere_but_ledger_and_deals_under_the_bare_number(ada: User) -> None:
    before, ledger = whole_database(), everything()
    assert [secret for secret in SECRETS if secret not in before] == [], "the fixture has to write them"
    token, password = Token.objects.get(user=ada).key, ada.password
    said = say("erase_user", "ada.lovelace", "--yes", "--reason", "on request")
    left = whole_database()
    assert [secret for secret in (*SECRETS, token, password) if secret in left] == []
    assert not Session.objects.exists()
    assert said.startswith(
        f"user {ada.pk}: erased user 1, tokens 1, sessions 1, clientIds 1, operations 1, auditRows 2"
    )
    entry = AuditEntry.objects.get(action="erase_user")
    assert (entry.target, entry.reason, entry.source) == (f"user {ada.pk}", "on request", "cli")
    assert "boss" in left, "what others did stays theirs"
    for deal in ledger["Deal"]:
        deal["client_id"] = None
    kept = everything()
    assert kept["Account"][0].pop("erased_at") is not None
    assert ledger["Account"][0].pop("erased_at") is None
    assert kept == ledger
    assert LedgerEntry.objects.filter(account__user_id=ada.pk).count() == 5


def test_an_erased_user_cannot_log_in_nor_use_an_old_token_or_session(ada: User) -> None:
    api = client_of(Account.objects.get(user=ada))
    browser = Client()
    assert browser.login(username="ada.lovelace", password="pass word 1")
    assert (api.get("/api/account").status_code, browser.get("/admin/").status_code) == (200, 200)
    say("erase_user", "ada.lovelace", "--yes")
    assert (api.get("/api/account").status_code, browser.get("/admin/").status_code) == (401, 302)
    assert not Client().login(username="ada.lovelace", password="pass word 1")
    assert not Client().login(username=f"erased {ada.pk}", password="pass word 1")


def test_erasing_twice_changes_nothing(ada: User) -> None:
    say("erase_user", "ada.lovelace", "--yes")
    before = whole_database()
    assert say("erase_user", str(ada.pk), "--id", "--yes") == f"user {ada.pk}: nothing was left to erase\n"
    assert whole_database() == before


def test_without_yes_nothing_is_erased(ada: User) -> None:
    before = whole_database()
    assert "say --yes" in refused("erase_user", "ada.lovelace")
    assert whole_database() == before


def test_open_deals_refuse_the_erasing_and_say_what_to_do(ada: User) -> None:
    make_deal(Account.objects.get(user=ada))
    before = whole_database()
    said = refused("erase_user", "ada.lovelace", "--yes")
    assert said.startswith(f"User {ada.pk} has 1 open deals. Close them first (admin site, Deals")
    assert whole_database() == before


def test_the_systems_own_user_is_not_erased() -> None:
    make_user(SELF_CHECK_USER)
    assert "the system's own" in refused("erase_user", SELF_CHECK_USER, "--yes")
    assert User.objects.filter(username=SELF_CHECK_USER).exists()


def test_a_user_without_an_account_is_erased() -> None:
    make_user("only.an.operator", is_staff=True)
    say("erase_user", "only.an.operator", "--yes")
    assert "only.an.operator" not in whole_database()


def test_opening_and_erasing_at_once_never_leaves_an_erased_user_with_an_open_deal(ada: User) -> None:
    """Either the deal was first and the erasing is refused, or the erasing was first and the deal is."""
    account = Account.objects.get(user=ada)
    make_deal(make_account())  # a price
    outcomes = at_once([
        lambda: say("erase_user", "ada.lovelace", "--yes"),
        *[lambda: make_deal(account)] * 3,
    ])  # fmt: skip
    erased = not isinstance(outcomes[0], Exception)
    assert erased == (not Deal.objects.filter(account=account, status="open").exists())
    assert all(isinstance(error, CommandError | DealError) for error in errors_of(outcomes))
    if erased:
        assert all(isinstance(outcome, NotFound) for outcome in outcomes[1:])
