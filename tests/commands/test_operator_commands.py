"""The operator's commands, as a shell runs them: what they print, what they do, and the exit codes for scripts."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal

import pytest
from django.db import DataError
from domain import new_account
from market import Market
from servers import BIN, PROJECT, Process, wait_until

from deals import state
from deals.models import Deal
from deals.queries import current_state
from deals.settlement import Failure
from workers import book, dead_letters
from workers.dispatch import send_closures
from workers.models import AuditEntry, DeadLetter, Operation

Manage = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manage(process_env: dict[str, str], the_system_runs: None) -> Manage:
    """`manage.py` with these arguments, until it ends."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "python"), "manage.py", *arguments], capture_output=True, text=True, check=False, timeout=60,
            cwd=PROJECT, env={**process_env, "LOG_LEVEL": "ERROR", **env},
        )  # fmt: skip

    return run


def something_in_flight(live: Market) -> Deal:
    """A fired deal whose message no worker takes."""
    live.tick("100")
    deal = live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))
    return deal


def test_drain_restart_and_resume_end_with_0_and_say_their_steps(
    live: Market, manage: Manage, celery_worker: Callable[..., Process]
) -> None:
    celery_worker()
    drained = manage("drain_workers", "--reason", "new disk")
    assert (drained.returncode, drained.stderr) == (0, "")
    assert drained.stdout.splitlines() == [
        "  draining: nothing opens, fires or is swept any more",
        "  drain: stopped: nothing is in flight",
        "shutdown: done, the system is stopped",
    ]
    assert manage("drain_workers").stdout.splitlines()[0] == "  drain: the system is stopped already"
    resumed = manage("resume_workers")
    assert (resumed.returncode, resumed.stdout.splitlines()[-1]) == (0, "resume: done, the system is running")
    restarted = manage("restart_workers", "--reason", "new settings")
    assert (restarted.returncode, restarted.stderr) == (0, "")
    assert "self-check: deal" in restarted.stdout
    assert restarted.stdout.splitlines()[-1] == "restart: done, the system is running"
    asked = AuditEntry.objects.filter(outcome="requested").order_by("pk")
    assert list(asked.values_list("action", "reason", "source")) == [
        ("shutdown", "new disk", "cli"),
        ("shutdown", "manage.py drain_workers", "cli"),
        ("resume", "manage.py resume_workers", "cli"),
        ("restart", "new settings", "cli"),
    ]


def test_the_control_lock_works_with_pooled_connections(live: Market, manage: Manage) -> None:
    for command in ("drain_workers", "resume_workers"):
        done = manage(command, DATABASE_POOL="true")
        assert (done.returncode, done.stderr) == (0, "")
    assert current_state().state == "running"


def test_what_does_not_end_in_time_is_named_and_the_code_is_3(live: Market, manage: Manage) -> None:
    something_in_flight(live)
    for command in ("drain_workers", "restart_workers"):
        drained = manage(command, "--timeout", "0.5")
        assert drained.returncode == 3
        assert "1 messages in the queue `closures`, 1 fired deals not settled" in drained.stderr
        assert "the system is draining" in drained.stderr


def test_what_fails_or_is_refused_ends_with_1(live: Market, manage: Manage) -> None:
    failed = manage("restart_workers")
    assert (failed.returncode, "no worker answers" in failed.stderr) == (1, True)
    state.change(state.State.HALTED, "test")
    refused = manage("restart_workers")
    assert (refused.returncode, "resume it first" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("emergency_stop",),
        ("drain_workers", "--timeout", "soon"),
        ("drain_workers", "--timeout", "-1"),
        ("restart_workers", "--now"),
        ("dead_letters",),
        ("dead_letters", "burn"),
        ("dead_letters", "requeue"),
        ("dead_letters", "requeue", "one"),
    ],
)
def test_what_was_typed_wrongly_ends_with_2_and_changes_nothing(manage: Manage, arguments: tuple[str, ...]) -> None:
    typed = manage(*arguments)
    assert typed.returncode == 2, typed.stderr
    assert typed.stderr.startswith("usage:")
    assert not Operation.objects.exists()


def test_draining_can_end_the_workers(live: Market, manage: Manage, celery_worker: Callable[..., Process]) -> None:
    worker = celery_worker()
    drained = manage("drain_workers", "--terminate")
    assert (drained.returncode, "ended: test-" in drained.stdout) == (0, True)
    wait_until(lambda: not worker.alive, 30, what="the worker has ended")
    assert manage("drain_workers", "--terminate").stdout.splitlines()[-1] == "no worker was running"


def test_an_emergency_stop_halts_and_is_audited_and_a_second_one_answers_the_state(
    live: Market, manage: Manage
) -> None:
    stopped = manage("emergency_stop", "--reason", "wrong prices")
    assert stopped.returncode == 0
    assert "halted; was running" in stopped.stdout
    assert current_state().state == "halted"
    assert "was halted already" in manage("emergency_stop", "--reason", "again").stdout
    entry = AuditEntry.objects.order_by("pk")[0]
    assert (entry.action, entry.reason, entry.source, entry.outcome) == (
        "emergency_stop", "wrong prices", "cli", "done",
    )  # fmt: skip
    assert Operation.objects.filter(kind="emergency_stop", state="done").count() == 2


def test_an_emergency_stop_works_while_redis_is_away(live: Market, manage: Manage) -> None:
    dead = "redis://127.0.0.1:1/0"
    assert manage("emergency_stop", "--reason", "test", REDIS_URL=dead).returncode == 0
    assert current_state().state == "halted"


@pytest.mark.parametrize(
    "command",
    [
        *("drain_workers --reason test", "resume_workers --reason test", "emergency_stop --reason test"),
        *("dead_letters list", "dead_letters requeue --all"),
    ],
)
def test_without_postgresql_there_is_one_line_and_1(manage: Manage, command: str) -> None:
    answer = manage(*command.split(), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert answer.returncode == 1
    assert answer.stderr.startswith("CommandError: PostgreSQL does not answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_supervisor_and_a_closed_terminal_interrupt_and_the_state_is_said(
    live: Market, start_process: Callable[..., Process], number: signal.Signals
) -> None:
    something_in_flight(live)
    draining = start_process("manage.py", "drain_workers")
    wait_until(lambda: current_state().state == "draining", 30)
    draining.signal(number)
    assert draining.process.wait(20) == 1
    assert "interrupted; the system is draining" in draining.output
    ended = Operation.objects.get()
    assert (ended.state, ended.error) == ("failed", "interrupted")
    assert AuditEntry.objects.order_by("pk").last().outcome == "interrupted"  # type: ignore[union-attr]


def test_on_a_terminal_a_line_counts_while_it_waits(live: Market, process_env: dict[str, str]) -> None:
    something_in_flight(live)
    ours, theirs = pty.openpty()
    command = [sys.executable, "manage.py", "drain_workers", "--timeout", "1.5"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=PROJECT, env=process_env) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how a terminal says that the other side has closed
            pass
        assert process.wait(30) == 3
    os.close(ours)
    assert "… shutdown, 1 s".encode() in shown


# --- status -------------------------------------------------------------------------------------------------------


def test_the_status_shows_what_there_is(live: Market, manage: Manage, celery_worker: Callable[..., Process]) -> None:
    something_in_flight(live)
    live.open(new_account(), take_profit="150")
    celery_worker(queues="sweep")
    answer = manage("workers_status", "--json", PRICE_STALE_AFTER_S="3600")  # however slow the machine is
    assert answer.returncode == 0, answer.stderr
    status = json.loads(answer.stdout)
    assert (status["system"]["state"], status["deals"], status["book"]) == (
        "running", {"armed": 2}, {"armed": 1, "fired": 1},
    )  # fmt: skip
    assert status["queues"] == {"closures": 1, "sweep": 0, "default": 0}
    assert len(status["workers"]) == 1
    assert status["prices"]["fresh"] == 1
    assert status["operation"] is None
    text = manage("workers_status").stdout
    assert "state running" in text
    assert "closures 1   sweep 0   default 0" in text
    assert status["health"]["status"] == "unhealthy"
    assert "No worker serves closures, default." in status["health"]["wrong"]["orderWorker"]
    assert "orderWorker: The beat gives no sign of life" in text.replace("No worker serves closures, default. ", "")


def test_the_status_of_a_stopped_system_ends_with_1_and_says_why(live: Market, manage: Manage) -> None:
    manage("emergency_stop", "--reason", "wrong prices")
    answer = manage("workers_status")
    assert answer.returncode == 1
    assert "state halted" in answer.stdout
    assert "reason wrong prices" in answer.stdout
    assert "emergency_stop done" in answer.stdout
    assert "NONE" in answer.stdout  # no worker


def test_the_status_works_and_says_so_while_servers_are_away(manage: Manage) -> None:
    no_redis = manage("workers_status", REDIS_URL="redis://127.0.0.1:1/0")
    assert no_redis.returncode == 0
    assert no_redis.stdout.count("DOES NOT ANSWER") == 4  # book, prices, queues, workers
    assert "queueManager: Redis does not answer." in no_redis.stdout
    no_postgres = manage("workers_status", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert no_postgres.returncode == 1
    assert no_postgres.stdout.count("DOES NOT ANSWER") == 4  # system, operation, deals, dead letters
    assert "orderWorker: PostgreSQL does not answer." in no_postgres.stdout


def test_watching_shows_it_again_until_ctrl_c(live: Market, start_process: Callable[..., Process]) -> None:
    watching = start_process("manage.py", "workers_status", "--watch", "--json")
    wait_until(lambda: watching.output.count('"system"') >= 2, 30)
    watching.signal(signal.SIGINT)
    assert watching.process.wait(20) == 0


# --- dead letters -------------------------------------------------------------------------------------------------


def dead_deals(live: Market, count: int) -> list[DeadLetter]:
    live.tick("100")
    for _ in range(count):
        live.open(new_account(), take_profit="110")
    for fired in live.tick("111"):
        failure = Failure(fired.due(), DataError("too large\nDETAIL: …"))
        dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
        book.clear_fired([(fired.deal_id, fired.version)])
    return list(DeadLetter.objects.order_by("pk"))


def test_dead_letters_are_listed_requeued_and_discarded(live: Market, manage: Manage) -> None:
    first, second, third = dead_deals(live, 3)
    listed = manage("dead_letters", "list")
    assert listed.returncode == 0
    assert f"deal {first.deal_id} BTCUSDT at 111, 3 attempts" in listed.stdout
    assert listed.stdout.splitlines()[-1] == "3 dead letters"
    [*_, row] = json.loads(manage("dead_letters", "list", "--json").stdout)
    assert (row["id"], row["price"], row["error"]) == (first.pk, "111", "DataError: too large")

    requeued = manage("dead_letters", "requeue", str(first.pk), "--reason", "mended")
    assert (requeued.returncode, requeued.stdout) == (0, f"{first.pk}: requeued\n")
    assert book.all_fired()[first.deal_id].due().price == Decimal(111)
    assert manage("dead_letters", "discard", str(second.pk)).stdout == f"{second.pk}: discarded\n"
    assert manage("dead_letters", "requeue", "--all").stdout == f"{third.pk}: requeued\n"
    assert "1 dead letters" in manage("dead_letters", "list", "--state", "discarded").stdout
    assert "3 dead letters" in manage("dead_letters", "list", "--all").stdout

    refused = manage("dead_letters", "requeue", str(second.pk), "999999", str(first.pk))
    assert refused.returncode == 1
    assert refused.stdout == f"{first.pk}: requeued\n"
    assert "999999: There is no such dead letter." in refused.stderr
    assert "2 of 3 were refused" in refused.stderr
    actions = AuditEntry.objects.order_by("pk").values_list("action", "reason")
    assert list(actions) == [
        ("dead_letter.requeue", "mended"),
        ("dead_letter.discard", "manage.py dead_letters"),
        ("dead_letter.requeue", "manage.py dead_letters"),
        ("dead_letter.requeue", "manage.py dead_letters"),  # the refused one
    ]
