"""The deals of the present scene: loaded into PostgreSQL, armed in the book, checked at the end."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from django.db import connection, connections
from redis import Redis

from bench.errors import Trouble
from bench.load import LADDER, Loaded, Plan, close_deals, far_deals, load, rung_price, rungs
from bench.options import Options
from bench.programs import wait_until
from bench.servers import Servers
from deals.queries import ledger_violations, watched_after
from workers import book, keys, system
from workers.redis_client import connect

ARM_RANGE: Final = 5_000
SETTLE_S: Final = 120.0
ABOVE_THE_LADDER: Final = str(LADDER[1] + Decimal("0.05"))
"""A price that reaches every trigger of a ladder, and no far one."""

UNPUBLISHED: Final = """
    SELECT (SELECT count(*) FROM notifications WHERE published_at IS NULL AND settlement_id IS NULL)
           + (SELECT coalesce(sum(closed_count), 0) FROM settlements
              WHERE told_at IS NULL AND first_notification_id IS NOT NULL)
"""


class World:
    """One database and one book, both ours alone."""

    def __init__(self, servers: Servers, options: Options, say: Callable[[str], None]) -> None:
        self._servers = servers
        self._options = options
        self._say = say
        self.symbols = options.symbol_names
        self.open = 0
        self.shared = False
        """Whether it holds the far deals and ladders that the parts after growth share."""
        self._rung = 0
        self._watched = 0

    @property
    def redis(self) -> Redis:
        """This process's client."""
        return connect()

    def reset(self) -> None:
        """An empty database, an empty Redis, the system running. No process may be left from the last scene."""
        connections.close_all()
        self._servers.fresh_database()
        self.redis.flushall(asynchronous=True)
        system.refresh_state()
        self.redis.set(keys.book_epoch(), system.server_run_id())
        self.open, self.shared, self._rung, self._watched = 0, False, 0, 0

    def add_close(self, symbol: str, count: int) -> Loaded:
        """Deals of one symbol that all cross at `ABOVE_THE_LADDER`."""
        return self._add(count, close_deals(symbol))

    def grow_to(self, count: int) -> None:
        """Deals far from the price, over all symbols, until so many are open."""
        if count > self.open:
            self._add(count - self.open, far_deals(self.symbols))

    def add_ladders(self, count: int) -> None:
        """Deals close to the price, over all symbols, that cross rung by rung."""
        self._add(count, rungs(self.symbols, count))
        self._rung, self._watched = 0, count

    def share(self) -> None:
        """Make sure that the deals of the later parts are open: far ones, and ladders."""
        if not self.shared:
            self.reset()
            self.grow_to(self._options.open - self._options.watched)
            self.add_ladders(self._options.watched)
            self.shared = True

    def next_rungs(self, count: int) -> list[str]:
        """The prices that reach the next rungs of every symbol, one after the other. Raises Trouble beyond the last."""
        if (self._rung + count) * len(self.symbols) > self._watched:
            raise Trouble(f"{self._watched} watched deals are too few for that: raise --watched")
        first, self._rung = self._rung, self._rung + count
        return [rung_price(rung, len(self.symbols), self._watched) for rung in range(first, first + count)]

    def _add(self, count: int, plan: Plan) -> Loaded:
        self._say(f"loading {count:,} deals")
        loaded = load(self._servers.database_url, count, plan, per_account=self._options.per_account)
        self._say(f"arming {count:,} deals")
        self.arm(after=loaded.first - 1)
        self.rewrite_file()
        self.open += count
        return loaded

    def rewrite_file(self) -> None:
        """Have Redis rewrite its file now: grown by a book, it would do so in the middle of what is measured next."""
        self.redis.bgrewriteaof()

        def is_done() -> bool:
            facts = self.redis.info("persistence")
            return not (facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"])

        wait_until(is_done, SETTLE_S, "Redis has rewritten its file", every_s=0.1)

    def arm(self, after: int = 0) -> None:
        """Put the watched deals with greater ids into the book, by ranges as a rebuild does."""
        while rows := watched_after(after, ARM_RANGE):
            armed = book.arm(rows)
            if len(armed.held) != len(rows) or armed.fired:
                raise Trouble(f"{len(rows) - len(armed.held)} deals were not armed, {len(armed.fired)} fired at once")
            after = rows[-1].id

    # --- what has happened -----------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether nothing that has fired is still open."""
        return not self.redis.hlen(keys.fired())

    def wait_closed(self, loaded_or_count: int, before: int, timeout_s: float = SETTLE_S) -> None:
        """Wait until so many deals have closed since `before` and their notifications went out. Raises Trouble."""
        wait_until(self.settled, timeout_s, "what has fired is settled")
        wait_until(lambda: self.unpublished() == 0, timeout_s, "the notifications are published", every_s=0.1)
        closed = self.closed() - before
        if closed != loaded_or_count:
            raise Trouble(f"{closed} deals closed, not {loaded_or_count}")
        self.open -= closed

    def closed(self) -> int:
        """How many deals have closed, from the settlements' own count."""
        return int(self.one("SELECT coalesce(sum(closed_count), 0) FROM settlements"))

    def unpublished(self) -> int:
        """How many notifications have not been published."""
        return int(self.one(UNPUBLISHED))

    def ticks(self) -> int:
        """How many ticks the tick script has taken, of all symbols, as Redis counts them."""
        with self.redis.pipeline(transaction=False) as pipe:
            for symbol in self.symbols:
                pipe.hget(keys.price(symbol), "ticks")
            return sum(int(value or 0) for value in pipe.execute())

    def one(self, query: str, *values: Any) -> float:
        """The number that a query answers."""
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return float(cursor.fetchone()[0])

    def column(self, query: str, *values: Any) -> list[float]:
        """The numbers that a query answers."""
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return [float(row[0]) for row in cursor.fetchall()]

    def check(self) -> None:
        """Money is conserved, every closed deal was paid and notified once, and none by the sweep. Raises Trouble."""
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")  # a million deals are read
        violations = ledger_violations()
        if violations:
            raise Trouble(f"{len(violations)} violations of the ledger, the first: {violations[0]}")
        unknown = self.one("SELECT count(*) FROM settlements WHERE committed_at IS NULL")
        if unknown:
            raise Trouble(f"of {unknown:.0f} settlements the commit time is not known")
