"""Does pieces of the system's work in processes that are killed at a named crash point.

Run as a program it loads the project once and then, for each line of JSON [point, work, arguments] on its input, forks
a process that does the work; the line it answers is that process's exit code (-9 after the crash).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent


class Crasher:
    """The other end of this program. Processes are forked one at a time; nothing of the test's own is shared."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**env, "TESTING": "true", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
            cwd=TESTS.parent,
            text=True,
        )

    def do(self, point: str, work: str, *arguments: Any) -> int:
        """Do the work in a process that crashes at the point (an empty one: nowhere); its exit code."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([point, work, arguments]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def dies(self, point: str, work: str, *arguments: Any) -> None:
        """The same, and it did crash there."""
        assert self.do(point, work, *arguments) == -9, f"{work} never came to {point}"

    def end(self) -> None:
        """End the program."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()


def serve() -> None:
    """Fork a process for each line."""
    for line in sys.stdin:
        point, work, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(point, work, arguments)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 the answer


def _work(point: str, work: str, arguments: list[Any]) -> None:
    from deals import crash_points

    code = 1
    try:
        crash_points.arm(point)
        WORKS[work](*arguments)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)  # whatever happened: this process must never read the next line


# --- the work -------------------------------------------------------------------------------------------------


def open_deal(user_id: int, quote: list[Any], take_profit: str, client_id: str) -> None:
    """As the web process opens one."""
    from deals import services

    services.open_deal(
        user_id=user_id, symbol=quote[0], direction="up", amount=Decimal(100), multiplier=10, quote=_quote(quote),
        take_profit=Decimal(take_profit), client_id=client_id,
    )  # fmt: skip


def amend(user_id: int, deal_id: int, quote: list[Any], take_profit: str) -> None:
    """As the web process amends one."""
    from deals import services

    services.amend_levels(user_id=user_id, deal_id=deal_id, quote=_quote(quote), take_profit=Decimal(take_profit))


def close_by_hand(deal_id: int, quote: list[Any]) -> None:
    """As the web process closes one."""
    from deals import services

    services.close_deal(deal_id=deal_id, quote=_quote(quote))


def tick(price: str, now_ms: int, trade_id: int) -> None:
    """As the prices process takes one, and hands over what it fires."""
    from market import Market

    from workers.dispatch import send_closures
    from workers.drivers import next_token

    send_closures(Market(clock=_clock(now_ms), token=next_token()).tick(price, at_ms=now_ms, trade_id=trade_id))


def settle(message: list[Any]) -> None:
    """As a worker does."""
    from workers.tasks import close_deals

    close_deals(message)


def close_here(message: list[Any], redis_answers: bool, attempts: int) -> None:
    """As the prices process does in degraded mode, so many times."""
    from workers.book import read_fired
    from workers.closing import Closer

    closer = Closer()
    closer.redis_answers = redis_answers
    for _ in range(attempts):
        closer.close(read_fired((deal_id, entry) for deal_id, entry in message))


def sweep(now_ms: int) -> None:
    """As the sweeper does."""
    from workers.sweep import sweep

    sweep(clock=_clock(now_ms))


def rebuild() -> None:
    """As a worker does, a deal at a time."""
    from workers import reconcile

    reconcile.RANGE = 1  # type: ignore[misc]
    reconcile.reconcile()


def bury(deal_id: int, entry: str) -> None:
    """As a worker does with a deal whose last attempt has failed."""
    from django.db import DataError

    from deals.settlement import Failure
    from workers import tasks
    from workers.book import Fired

    fired = Fired.parse(deal_id, entry)
    tasks.close_deals.push_request(retries=tasks.MAX_RETRIES)
    tasks._try_alone_again(tasks.close_deals, fired, Failure(fired.due(), DataError("overflow")), fired.fired_ms)


def requeue(letter_id: int) -> None:
    """As the web process does for an operator."""
    from workers import dead_letters
    from workers.audit import SYSTEM

    dead_letters.requeue(letter_id, SYSTEM, "test")


WORKS = {
    work.__name__: work
    for work in (open_deal, amend, close_by_hand, tick, settle, close_here, sweep, rebuild, bury, requeue)
}


def _clock(now_ms: int) -> Any:
    from workers.clock import TapeClock

    return TapeClock(now_ms)


def _quote(quote: list[Any]) -> Any:
    from deals.quotes import Quote
    from workers.clock import to_datetime

    symbol, price, seq, at_ms = quote
    return Quote(symbol, Decimal(price), seq, to_datetime(at_ms))


if __name__ == "__main__":
    import django

    django.setup()
    import cryptocraze.celery  # noqa: F401 its tasks are published

    serve()
