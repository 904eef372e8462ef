"""What the database refuses by itself, whoever writes: one raw violating statement for each constraint."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction
from domain import NOON, due, new_account, opened
from psycopg import Error as PostgresError
from psycopg.errors import ForeignKeyViolation

from deals.models import Account, Deal
from deals.settlement import settle

pytestmark = pytest.mark.django_db

OPEN = "UPDATE deals SET {} WHERE status = 'open'"
CLOSED = "UPDATE deals SET {} WHERE status = 'closed'"
ACCOUNT = "UPDATE accounts SET {}"
POSTING = "INSERT INTO ledger_entries (account_id, deal_id, kind, amount, created_at) SELECT {} FROM deals WHERE {}"
EVENT = "INSERT INTO deal_events (deal_id, version, at, error, kind, detector) SELECT id, 1, now(), '', {} FROM deals"
NOTICE = (
    "INSERT INTO notifications (account_id, deal_id, version, created_at, kind) "
    "SELECT account_id, id, 0, now(), {} FROM deals WHERE status = 'closed'"
)
SETTLEMENT = "UPDATE settlements SET {}"
STATE = "UPDATE system_state SET {}"

# Constraint → statements that it must refuse. The rows: an open deal `up`, 100 USDT × 10, levels 110 and 90, pending,
# client_id `a`; a second open one with client_id `b`; a closed one.
VIOLATIONS: dict[str, list[str]] = {
    "accounts_balance_not_negative": [ACCOUNT.format("balance = -0.00000001")],
    "accounts_margin_not_negative": [ACCOUNT.format("margin = -0.00000001")],
    "accounts_winning_within_closed": [ACCOUNT.format("winning_deals = closed_deals + 1")],
    "accounts_extremes_have_their_sign": [
        ACCOUNT.format("largest_profit = -0.00000001"),
        ACCOUNT.format("largest_loss = 0.00000001"),
    ],
    "accounts_closed_deals_check": [ACCOUNT.format("closed_deals = -1, winning_deals = -1")],
    "accounts_winning_deals_check": [ACCOUNT.format("winning_deals = -1")],
    "accounts_user_id_key": [
        """
        INSERT INTO accounts (user_id, balance, margin, closed_deals, winning_deals, total_volume, total_amount,
            largest_profit, largest_loss, created_at)
        SELECT user_id, 0, 0, 0, 0, 0, 0, 0, 0, now() FROM accounts
        """
    ],
    "deals_one_per_client_id": [OPEN.format("client_id = 'same'")],
    "deals_amount_positive": [OPEN.format("amount = 0"), OPEN.format("amount = -1")],
    "deals_multiplier_1_to_100": [OPEN.format("multiplier = 0"), OPEN.format("multiplier = 101")],
    "deals_multiplier_check": [OPEN.format("multiplier = -1")],
    "deals_direction_known": [OPEN.format("direction = 'flat', monitoring = 'none', take_profit = NULL, "
                                          "stop_loss = NULL, upper_trigger = NULL, lower_trigger = NULL")],
    "deals_open_price_positive": [OPEN.format("open_price = 0"), OPEN.format("open_price = -1")],
    "deals_levels_positive": [
        OPEN.format("stop_loss = 0, lower_trigger = 0"),
        OPEN.format("take_profit = -1, upper_trigger = -1, stop_loss = NULL, lower_trigger = NULL"),
    ],
    "deals_triggers_match_levels": [
        OPEN.format("upper_trigger = 111"),
        OPEN.format("lower_trigger = 89"),
        OPEN.format("take_profit = 111"),
        OPEN.format("direction = 'down'"),
        # A level without its trigger would never close the deal; a trigger without its level would, for no reason.
        OPEN.format("upper_trigger = NULL"),
        OPEN.format("lower_trigger = NULL"),
        OPEN.format("take_profit = NULL"),
        OPEN.format("stop_loss = NULL"),
        OPEN.format("upper_trigger = NULL, lower_trigger = NULL, monitoring = 'none'"),
        OPEN.format("direction = 'down', upper_trigger = 90, lower_trigger = NULL"),
    ],
    "deals_upper_above_lower": [
        OPEN.format("take_profit = 90, upper_trigger = 90"),
        OPEN.format("take_profit = 80, upper_trigger = 80"),
    ],
    "deals_closed_iff_close_fields": [
        *(OPEN.format(f"{field} = {value}") for field, value in {
            "closed_at": "now()", "close_price": 1, "close_reason": "'manual'", "detector": "'manual'", "profit": 0,
            "commission": 0, "close_trade_id": 1, "close_tick_at": "now()", "received_at": "now()",
            "fired_at": "now()", "started_at": "now()", "settlement_id": "(SELECT max(id) FROM settlements)",
            "status": "'closed'",
        }.items()),
        *(CLOSED.format(f"{field} = NULL") for field in (
            *("closed_at", "close_price", "close_reason", "detector", "profit", "commission"),
            *("started_at", "settlement_id"),
        )),
        CLOSED.format("monitoring = 'armed'"),
        CLOSED.format("status = 'other'"),
        CLOSED.format("status = 'open', monitoring = 'pending'"),
    ],
    "deals_monitoring_matches_triggers": [
        OPEN.format("monitoring = 'none'"),
        OPEN.format("monitoring = 'ended'"),
        OPEN.format("monitoring = 'other'"),
        OPEN.format("take_profit = NULL, stop_loss = NULL, upper_trigger = NULL, lower_trigger = NULL"),
    ],
    "deals_watched_has_expiry": [OPEN.format("watch_expires_at = NULL")],
    "deals_closure_in_bounds": [
        CLOSED.format("close_price = 0"),
        CLOSED.format("profit = -amount - 0.00000001"),
        CLOSED.format("commission = -0.00000001"),
    ],
    "deals_close_reason_known": [CLOSED.format("close_reason = 'other'")],
    "deals_detector_known": [CLOSED.format("detector = 'other'")],
    "deals_watch_version_check": [OPEN.format("watch_version = -1")],
    "ledger_one_per_deal_and_kind": [
        POSTING.format("account_id, id, 'open', -amount, now()", "status = 'open'"),
        POSTING.format("account_id, id, 'close', 0, now()", "status = 'closed'"),
    ],
    "ledger_kind_and_sign": [
        POSTING.format("account_id, id, 'close', -0.00000001, now()", "status = 'open'"),
        POSTING.format("account_id, NULL, 'open', -1, now()", "status = 'open'"),
        POSTING.format("account_id, NULL, 'close', 1, now()", "status = 'open'"),
        POSTING.format("account_id, id, 'funding', 1, now()", "status = 'open'"),
        POSTING.format("account_id, id, 'other', 1, now()", "status = 'open'"),
        POSTING.format("account_id, id, 'open', 1, now()", "status = 'open'"),
    ],
    "deal_events_gap_ms_check": [
        "INSERT INTO deal_events (deal_id, version, at, error, kind, gap_ms) SELECT 1, 1, now(), '', '', -1"
    ],
    "deal_events_kind_known": [EVENT.format("'other', NULL")],
    "deal_events_detector_known": [EVENT.format("'fired', 'other'")],
    "deal_events_version_check": [
        "INSERT INTO deal_events (deal_id, version, at, error, kind) SELECT id, -1, now(), '', 'fired' FROM deals"
    ],
    "notifications_kind_known": [NOTICE.format("'other'")],
    "notifications_told_once": [NOTICE.format("'deal_closed'")],
    "notifications_version_check": ["UPDATE notifications SET version = -1"],
    "settlements_closed_count_check": [SETTLEMENT.format("closed_count = -1")],
    "system_state_is_one_row": [STATE.format("id = 2")],
    "system_state_known": [STATE.format("state = 'asleep'")],
    "system_state_id_check": [STATE.format("id = -1")],
    "system_state_version_check": [STATE.format("version = -1")],
}  # fmt: skip

# Checks are evaluated in the order of their names. These of Django's own can't be violated without one before them.
COVERED_BY = {"deals_multiplier_check": "deals_multiplier_1_to_100"}


def run(*statements: str) -> None:
    """In a savepoint, with deferred foreign keys checked at its end."""
    with transaction.atomic(), connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.fixture
def account() -> Account:
    account = new_account()
    for client_id in ("a", "b"):
        opened(account, take_profit="110", stop_loss="90", client_id=client_id)
    settle([due(opened(account, take_profit="110"), "110")])
    return account


@pytest.mark.parametrize(
    ("constraint", "sql"), [(name, sql) for name, statements in VIOLATIONS.items() for sql in statements]
)
def test_a_violating_row_is_refused(account: Account, constraint: str, sql: str) -> None:
    with pytest.raises(IntegrityError) as refused:
        run(sql)
    assert isinstance(refused.value.__cause__, PostgresError)
    assert refused.value.__cause__.diag.constraint_name == COVERED_BY.get(constraint, constraint)


def test_every_constraint_is_in_the_table_above() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH tables AS (
                SELECT unnest('{accounts,deals,deal_events,ledger_entries,notifications,settlements,system_state}'
                              ::regclass[]) AS id
            )
            SELECT conname FROM pg_constraint JOIN tables ON tables.id = conrelid WHERE contype IN ('c', 'u', 'x')
            UNION
            SELECT indexrelid::regclass::text FROM pg_index JOIN tables ON tables.id = indrelid
            WHERE indisunique AND NOT indisprimary
            """
        )
        assert {name for (name,) in cursor.fetchall()} == set(VIOLATIONS)


def test_deals_without_a_client_id_are_as_many_as_their_user_likes(account: Account) -> None:
    for _ in range(2):
        opened(account, take_profit="110")
    assert Deal.objects.filter(account=account, client_id=None).count() == 3


def test_the_rows_that_the_violations_start_from_are_allowed(account: Account) -> None:
    run("UPDATE deals SET opened_at = now()", "UPDATE accounts SET created_at = now()")
    assert Deal.objects.filter(status="open").count() == 2


@pytest.mark.parametrize("table", ["ledger_entries", "deal_events"])
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id", "DELETE FROM {}"])
def test_the_ledger_and_the_history_are_append_only(account: Account, table: str, change: str) -> None:
    with pytest.raises(IntegrityError, match=f"{table} is append-only"):
        run(change.format(table))


@pytest.mark.parametrize("table", ["deals", "accounts", "settlements"])
def test_what_the_ledger_speaks_of_cannot_be_deleted(account: Account, table: str) -> None:
    with pytest.raises(IntegrityError, match="foreign key"):
        run(f"DELETE FROM {table}")  # noqa: S608 - the table names above


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE deals SET account_id = 0",
        "UPDATE deals SET settlement_id = 0 WHERE status = 'closed'",
        "INSERT INTO ledger_entries (account_id, kind, amount, created_at) VALUES (0, 'funding', 1, now())",
        POSTING.format("account_id, 0, 'open', -1, now()", "status = 'closed'"),
        "INSERT INTO deal_events (deal_id, version, at, error, kind) VALUES (0, 1, now(), '', 'fired')",
        "UPDATE notifications SET deal_id = 0",
        "UPDATE notifications SET account_id = 0",
    ],
)
def test_nothing_points_to_a_row_that_is_not_there(account: Account, sql: str) -> None:
    with pytest.raises(IntegrityError, match="foreign key"):
        run(sql)


@pytest.mark.parametrize(
    "sql",
    [
        POSTING.format("{}, id, 'close', 1, now()", "status = 'open'"),
        (
            "INSERT INTO notifications (account_id, deal_id, version, created_at, kind) "
            "SELECT {}, id, 1, now(), 'monitoring_expired' FROM deals"
        ),
        "UPDATE notifications SET account_id = {}",
        "UPDATE deals SET account_id = {}",
    ],
)
def test_what_is_said_of_a_deal_is_said_to_its_own_account(account: Account, sql: str) -> None:
    other = new_account()
    with pytest.raises(IntegrityError, match="foreign key"):
        run(sql.format(other.pk))


@pytest.mark.parametrize("table", ["deals", "accounts", "settlements"])
def test_what_the_ledger_speaks_of_keeps_its_number(account: Account, table: str) -> None:
    with pytest.raises(IntegrityError, match="foreign key"):
        run(f"UPDATE {table} SET id = id + 1000")  # noqa: S608 - the table names above


@pytest.mark.parametrize(
    "sql",
    [
        (
            "INSERT INTO ledger_entries (account_id, kind, amount, created_at) "
            "SELECT unnest(ARRAY[id, id, 0, id]), 'funding', 1, now() FROM accounts"
        ),
        (
            "INSERT INTO deal_events (deal_id, version, at, error, kind) SELECT id, 1, now(), '', 'fired' FROM deals "
            "UNION ALL SELECT 0, 1, now(), '', 'fired'"
        ),
    ],
)
def test_one_wrong_row_among_many_is_found(account: Account, sql: str) -> None:
    with pytest.raises(IntegrityError, match="foreign key"):
        run(sql)


def test_nothing_that_is_refused_is_named_as_something_else(account: Account) -> None:
    with pytest.raises(IntegrityError) as refused:
        run("INSERT INTO deal_events (deal_id, version, at, error, kind) VALUES (0, 1, now(), '', 'fired')")
    assert isinstance(refused.value.__cause__, ForeignKeyViolation)
    assert refused.value.__cause__.diag.table_name == "deal_events"


def test_a_deal_that_is_saved_whole_keeps_its_account_and_is_saved(account: Account) -> None:
    deal = Deal.objects.filter(status="open").latest("pk")
    deal.opened_at = NOON
    deal.save()
    deal.refresh_from_db()
    assert (deal.opened_at, deal.account_id) == (NOON, account.pk)
