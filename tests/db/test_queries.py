"""What the sweep asks for, the indexes that answer, and the check of the ledger that must not miss anything."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from domain import NOON, SYMBOL, due, new_account, opened

from deals import services
from deals.models import Account, Deal
from deals.queries import Bucket, DueRow, due_rows, expiring_ids, ledger_violations, pending_rows, watched_after
from deals.settlement import settle

D = Decimal
pytestmark = pytest.mark.django_db
POSTING = "INSERT INTO ledger_entries (account_id, deal_id, kind, amount, created_at) SELECT account_id, id, {}"
NOTICE = (
    "INSERT INTO notifications (account_id, deal_id, kind, version, created_at) "
    "SELECT account_id, id, 'deal_closed', {}"
)


@pytest.fixture
def account() -> Account:
    return new_account()


def bucket(first_seq: int, low: str, high: str, symbol: str = SYMBOL) -> Bucket:
    return Bucket(symbol, first_seq, D(low), D(high))


def found(*buckets: Bucket, limit: int = 100) -> list[int]:
    return [row.id for row in due_rows(buckets, limit=limit)]


class TestDueRows:
    def test_finds_what_a_bucket_reached_on_either_side_inclusively(self, account: Account) -> None:
        both = opened(account, take_profit="110", stop_loss="90")
        upper = opened(account, take_profit="110")
        lower = opened(account, direction="down", take_profit="90")
        assert found(bucket(2, "90.000000000001", "109.999999999999")) == []
        assert found(bucket(2, "95", "110")) == [both.pk, upper.pk]
        assert found(bucket(2, "90", "105")) == [both.pk, lower.pk]
        assert found(bucket(2, "85", "115")) == [both.pk, upper.pk, lower.pk]

    def test_says_all_that_firing_needs(self, account: Account) -> None:
        deal = opened(account, direction="down", take_profit="90", stop_loss="110")
        assert due_rows([bucket(2, "89", "105")], limit=1) == [
            DueRow(deal.pk, SYMBOL, "down", D(110), D(90), 1, D(89), D(105), "pending", 1, NOON)
        ]

    def test_only_buckets_that_begin_after_the_price_a_deal_was_checked_against_count(self, account: Account) -> None:
        deal = opened(account, take_profit="110", stop_loss="90", seq=10)
        assert found(bucket(9, "80", "120")) == []
        assert found(bucket(10, "80", "120")) == []
        assert found(bucket(11, "80", "120")) == [deal.pk]

    def test_the_span_that_counts_is_each_deals_own(self, account: Account) -> None:
        early = opened(account, take_profit="110", stop_loss="90", seq=1)
        late = opened(account, take_profit="110", stop_loss="90", seq=25)
        buckets = [bucket(20, "100", "111"), bucket(30, "89", "95"), bucket(40, "93", "94")]
        spans = {row.id: (row.low, row.high) for row in due_rows(buckets, limit=10)}
        assert spans == {early.pk: (D(89), D(111)), late.pk: (D(89), D(95))}

    def test_a_crossing_before_and_a_calm_after_find_nothing(self, account: Account) -> None:
        opened(account, take_profit="110", seq=25)
        assert found(bucket(20, "100", "120"), bucket(30, "100", "105")) == []

    def test_one_symbols_prices_are_not_anothers(self, account: Account) -> None:
        btc = opened(account, take_profit="110")
        eth = opened(account, take_profit="110", symbol="ETHUSDT")
        assert found(bucket(2, "100", "120", "ETHUSDT")) == [eth.pk]
        assert found(bucket(2, "100", "105", "ETHUSDT"), bucket(2, "100", "120")) == [btc.pk]

    def test_only_what_is_watched_is_found(self, account: Account) -> None:
        pending, armed, removed, expired, dead, closed = (opened(account, take_profit="110") for _ in range(6))
        opened(account)
        Deal.objects.filter(pk=armed.pk).update(monitoring="armed")
        Deal.objects.filter(pk=expired.pk).update(monitoring="expired")
        Deal.objects.filter(pk=dead.pk).update(monitoring="dead")
        services.remove_from_monitoring(deal_id=removed.pk)
        settle([due(closed, "110")])
        assert found(bucket(2, "100", "120")) == [pending.pk, armed.pk]

    def test_no_more_than_asked_for_in_key_order(self, account: Account) -> None:
        deals = [opened(account, take_profit="110", amount="1") for _ in range(5)]
        assert found(bucket(2, "100", "120"), limit=3) == [deal.pk for deal in deals[:3]]

    def test_the_rest_follows_page_by_page(self, account: Account) -> None:
        deals = [opened(account, take_profit="110", amount="1").pk for _ in range(5)]
        pages = []
        after = 0
        while page := [row.id for row in due_rows([bucket(2, "100", "120")], limit=2, after=after)]:
            pages.append(page)
            after = page[-1]
        assert pages == [deals[:2], deals[2:4], deals[4:]]

    def test_leaves_out_what_is_named_at_its_version(self, account: Account) -> None:
        deals = [opened(account, take_profit="110", amount="1").pk for _ in range(4)]
        known = [f"{deals[0]}|1", f"{deals[1]}|2", f"{deals[2]}1|1", f'{deals[3]}|a {{damaged}} "entry\\']
        assert [row.id for row in due_rows([bucket(2, "100", "120")], limit=10, but=known)] == deals[1:]

    def test_no_buckets_no_deals(self, account: Account) -> None:
        opened(account, take_profit="110")
        assert due_rows([], limit=10) == []


class TestIndexes:
    """On 30,000 watched deals, as PostgreSQL plans it; all inside a transaction that is rolled back."""

    @pytest.fixture(autouse=True, params=[1, 15])
    def symbols(self, request: pytest.FixtureRequest, account: Account) -> Iterator[list[str]]:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    """
                    INSERT INTO deals (account_id, symbol, direction, amount, multiplier, open_price, take_profit,
                        upper_trigger, stop_loss, lower_trigger, status, opened_at, monitoring, monitoring_since,
                        watch_version, watched_from_seq, watched_from_at, watch_expires_at)
                    SELECT %s, 'S' || n %% %s, 'up', 1, 1, 100, 110 + n * 0.01, 110 + n * 0.01, 90 - n * 0.001,
                        90 - n * 0.001, 'open', now(), 'armed', now(), 1, 1, now(), now() + '1 day'
                    FROM generate_series(1, 30000) AS n
                    """,
                    [account.pk, request.param],
                )
                cursor.execute("ANALYZE deals")
            yield [f"S{n}" for n in range(request.param)]
            transaction.set_rollback(True)

    def test_what_has_fired_is_left_out_by_hash(self, symbols: list[str]) -> None:
        buckets = [bucket(2, "80", "1000", symbol) for symbol in symbols]
        everything = [f"{row.id}|1" for row in due_rows(buckets, limit=30_000)]
        assert len(everything) > 20_000
        began = time.monotonic()
        assert due_rows(buckets, limit=30_000, but=everything) == []
        assert time.monotonic() - began < 5, "20,000 by 20,000 one by one takes a minute"

    @staticmethod
    def plan(queries: CaptureQueriesContext) -> str:
        (query,) = queries.captured_queries
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {query['sql']}")
            return "\n".join(row[0] for row in cursor.fetchall())

    def test_the_sweep_reads_both_partial_indexes_and_never_the_whole_table(self, symbols: list[str]) -> None:
        buckets = [bucket(2, "89.99", "110.1", symbol) for symbol in symbols for _ in range(8)]
        with CaptureQueriesContext(connection) as queries:
            assert len(due_rows(buckets, limit=5000)) == 10
        plan = self.plan(queries)
        assert "deals_watched_upper" in plan, plan
        assert "deals_watched_lower" in plan, plan
        assert "Seq Scan on deals" not in plan, plan

    @pytest.mark.parametrize(
        ("index", "read"),
        [
            ("deals_pending", lambda: pending_rows(100)),
            ("deals_watch_expiry", lambda: expiring_ids(NOON, 100)),
        ],
    )
    def test_so_do_arming_and_expiry(self, index: str, read: Callable[[], object]) -> None:
        with CaptureQueriesContext(connection) as queries:
            read()
        plan = self.plan(queries)
        assert index in plan, plan

    def test_the_book_is_rebuilt_by_ranges_of_a_key(self) -> None:
        with CaptureQueriesContext(connection) as queries:
            assert len(watched_after(0, 100)) == 100
        plan = self.plan(queries)
        assert re.search("Index Scan using (deals_watched|deals_pkey) ", plan), plan


class TestTheCheckOfTheLedger:
    """Each kind of damage, done in a transaction that is rolled back, is reported."""

    @pytest.fixture
    def rows(self) -> tuple[Account, Deal, Deal]:
        account = new_account()
        still_open = opened(account, take_profit="110")
        closed = opened(account, take_profit="110")
        settle([due(closed, "110")])
        return account, still_open, closed

    def damaged(self, *damage: str) -> list[str]:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # As an operator at the console could: the append-only triggers off for this transaction.
                cursor.execute("SET LOCAL session_replication_role = replica")
                for sql in damage:
                    cursor.execute(sql)
            report = ledger_violations()
            transaction.set_rollback(True)
        assert ledger_violations() == []
        return report

    def test_is_silent_when_all_is_well(self, rows: tuple[Account, Deal, Deal]) -> None:
        assert ledger_violations() == []

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            ("UPDATE accounts SET balance = balance + 0.00000001", "balance"),
            ("DELETE FROM ledger_entries WHERE kind = 'funding'", "balance"),
            ("UPDATE accounts SET margin = margin + 0.00000001", "margin"),
            ("UPDATE deals SET amount = amount + 1 WHERE status = 'open'", "margin"),
            ("UPDATE accounts SET closed_deals = closed_deals + 1", "statistics"),
            ("UPDATE accounts SET winning_deals = 0", "statistics"),
            ("UPDATE accounts SET total_amount = total_amount + 1", "statistics"),
            ("UPDATE accounts SET total_volume = total_volume + 1", "statistics"),
            ("UPDATE accounts SET largest_profit = largest_profit + 1", "statistics"),
            ("UPDATE accounts SET largest_loss = largest_loss - 1", "statistics"),
            ("DELETE FROM ledger_entries WHERE kind = 'open'", "postings"),
            ("DELETE FROM ledger_entries WHERE kind = 'close'", "postings"),
            ("UPDATE ledger_entries SET amount = amount + 1 WHERE kind = 'close'", "postings"),
            ("UPDATE deals SET profit = profit + 1 WHERE status = 'closed'", "postings"),
            (POSTING.format("'close', 0, now() FROM deals WHERE status = 'open'"), "postings"),
            ("DELETE FROM notifications", "notifications"),
            (NOTICE.format("1, now() FROM deals WHERE status = 'closed'"), "notifications"),
            (NOTICE.format("0, now() FROM deals WHERE status = 'open'"), "notifications"),
        ],
    )
    def test_reports_the_damage(self, rows: tuple[Account, Deal, Deal], damage: str, said: str) -> None:
        assert any(said in line for line in self.damaged(damage))

    def test_reports_a_posting_to_someone_elses_account(self, rows: tuple[Account, Deal, Deal]) -> None:
        # So done that every balance still equals the sum of its postings.
        other = new_account()
        report = self.damaged(
            f"UPDATE ledger_entries SET account_id = {other.pk} WHERE kind = 'close'",  # noqa: S608 - a number
            "UPDATE accounts SET balance = (SELECT sum(amount) FROM ledger_entries WHERE account_id = accounts.id)",
        )
        assert any("postings" in line for line in report)
