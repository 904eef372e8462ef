"""What waits for the disk: a settlement does; what is written about it afterwards, and can be again, does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from market import Market

from deals.models import Account
from workers import job_log
from workers.tasks import close_deals

SETTLING = (
    "update deals", "update accounts", "insert ledger_entries", "insert deal_events", "insert notifications",
    "insert settlements",
)  # fmt: skip
AFTERWARDS = ("update settlements", "insert job_log", "update job_log")
OPENING = {"insert deals": "on", "update accounts": "on", "insert ledger_entries": "on"}
TABLES = sorted({work.split()[1] for work in (*SETTLING, *AFTERWARDS)})
NOTED = """
    CREATE TABLE noted_commits (work text, mode text);
    CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO noted_commits
        VALUES (lower(TG_OP) || ' ' || TG_TABLE_NAME, current_setting('synchronous_commit'));
        RETURN NULL;
    END $$;
    SET synchronous_commit = on;
"""


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("; ".join(statements))


@pytest.fixture
def noted(market: Market) -> Iterator[Callable[[], dict[str, str]]]:
    """From now on: whether the transactions that write to a table wait for the disk, for each kind of work on it."""
    execute(NOTED)
    execute(
        *(f"CREATE TRIGGER note AFTER INSERT OR UPDATE ON {name} EXECUTE FUNCTION note_commit()" for name in TABLES)
    )

    def read() -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT work, string_agg(DISTINCT mode, ',') FROM noted_commits GROUP BY work")
            return dict(cursor.fetchall())

    yield read
    execute(*(f"DROP TRIGGER note ON {name}" for name in TABLES))
    execute("DROP FUNCTION note_commit", "DROP TABLE noted_commits", "RESET synchronous_commit")


def test_a_settlement_waits_for_the_disk_and_its_bookkeeping_does_not(
    market: Market, trader: Account, noted: Callable[[], dict[str, str]]
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    fired = market.tick("111")
    execute("DELETE FROM noted_commits")
    message = [[item.deal_id, item.entry] for item in fired]
    assert close_deals(message) == 1
    job_log.log_completed(task_id="one", task=close_deals, args=(message,), retval=1, state="SUCCESS")
    assert noted() == dict.fromkeys(SETTLING, "on") | dict.fromkeys(AFTERWARDS, "off")
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",), "for the next settlement of this connection"


def test_an_opening_waits_for_the_disk_and_its_arming_does_not(
    market: Market, trader: Account, noted: Callable[[], dict[str, str]]
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    # Both write to the deal's history; only arming changes the row.
    assert noted() == OPENING | {"update deals": "off", "insert deal_events": "off,on"}
