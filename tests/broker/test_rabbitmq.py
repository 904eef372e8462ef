"""RabbitMQ as the broker, with classic and with quorum queues: deals close, figures are true, and its loss is told."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state, current_app
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from domain import new_account
from factories import make_user
from kombu import pools
from kombu.exceptions import OperationalError as BrokerError
from market import Market
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from servers import Process, RabbitMQ, wait_until

from cryptocraze import broker
from deals.models import Deal, DealEvent, LedgerEntry, Status
from monitoring import health
from workers import queues, system
from workers.dispatch import send_closures
from workers.models import DeadLetter

pytestmark = [pytest.mark.debian, pytest.mark.django_db(transaction=True)]
EMPTY = {"depth": 0, "oldestAgeMs": None, "active": 0, "reserved": 0, "consumers": 0}


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitMQ]:
    """One server for all of these tests."""
    with tempfile.TemporaryDirectory(prefix="cc-rabbit-") as folder:
        server = RabbitMQ(Path(folder))
        yield server
        server.end()


class Amqp:
    """The project on RabbitMQ: in this process, and the environment for others."""

    def __init__(self, rabbit: RabbitMQ, queue_type: str) -> None:
        self.rabbit = rabbit
        self.queue_type = queue_type
        self.env = {"CELERY_BROKER_URL": rabbit.url, "CELERY_QUEUE_TYPE": queue_type}

    def forget(self) -> None:
        """Delete what was declared: the next test may declare it with another type."""
        with current_app.connection_for_write() as link, link.channel() as channel:
            for name in broker.QUEUES:
                channel.queue_delete(name)
                channel.exchange_delete(name)


@pytest.fixture(params=["classic", "quorum"])
def amqp(rabbit: RabbitMQ, request: pytest.FixtureRequest, settings: Any) -> Iterator[Amqp]:
    """This process's Celery application, configured anew as settings.py would be, until the test ends."""
    before = current_app._get_current_object()
    settings.CELERY_BROKER_URL = rabbit.url
    settings.CELERY_TASK_QUEUES = broker.queues(request.param)
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = broker.transport_options(rabbit.url, "")
    app = Celery("cryptocraze", set_as_current=False)
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.set_current()
    app.set_default()
    system_on_rabbit = Amqp(rabbit, request.param)
    yield system_on_rabbit
    system_on_rabbit.forget()
    for group in (pools.producers, pools.connections):  # theirs remember what is declared
        group[app.connection_for_write()].force_close_all()
        del group[app.connection_for_write()]
    app.close()
    _state.default_app = None
    before.set_default()
    before.set_current()


@pytest.fixture
def market(the_system_runs: None) -> Iterator[Market]:
    """A prices process on the wall clock."""
    system.refresh_state()
    market = Market()
    yield market
    market.close()


@pytest.fixture
def staff(the_system_runs: None) -> APIClient:
    """A client of someone on the staff."""
    user = make_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="change_deal"))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    return client


def figures(client: APIClient, queue: str = "closures") -> dict[str, Any]:
    """What the operator reads of a queue."""
    answer = client.get("/api/admin/workers/queues")
    assert answer.status_code == 200, answer.content
    [row] = [row for row in answer.json()["queues"] if row["name"] == queue]
    del row["name"]
    return dict(row)


def broker_is_healthy() -> bool:
    """The verdict of the health check."""
    checks = [check for part in health.report().components for check in part.checks if check.name == "broker"]
    return bool(checks[0].is_healthy)


def fired(market: Market, deals: int = 1) -> list[Any]:
    """As many deals of accounts of their own, all of them just fired."""
    market.tick("100")
    for _ in range(deals):
        market.open(new_account(), take_profit="110")
    return market.tick("111")


def test_a_deal_closes_once_and_the_queue_says_so(
    amqp: Amqp, market: Market, staff: APIClient, celery_worker: Callable[..., Process]
) -> None:
    [entry] = fired(market)
    for _ in range(2):  # a message may come twice
        send_closures([entry])
    wait_until(lambda: figures(staff) == EMPTY | {"depth": 2}, what="two messages wait")
    assert broker_is_healthy()
    celery_worker(env=amqp.env)
    wait_until(lambda: Deal.objects.get().status == Status.CLOSED, 30)
    wait_until(lambda: figures(staff) == EMPTY | {"consumers": 1}, what="the queue is empty")
    assert LedgerEntry.objects.filter(kind="close").count() == 1
    assert str(Deal.objects.get().close_price.normalize()) == "111"
    with current_app.connection_for_read() as link, link.channel() as channel:
        # Declaring it with the other type is refused: it is what it was said to be.
        other = next(queue for queue in broker.queues({"classic": "quorum", "quorum": "classic"}[amqp.queue_type]))
        with pytest.raises(link.channel_errors, match="inequivalent arg"):
            other.bind(channel).declare()


@pytest.mark.parametrize("amqp", ["quorum"], indirect=True)
def test_what_workers_run_and_hold_is_counted_and_a_locked_deal_closes_at_a_later_attempt(
    amqp: Amqp, market: Market, staff: APIClient, celery_worker: Callable[..., Process]
) -> None:
    entries = fired(market, 3)
    worker = celery_worker("--prefetch-multiplier", "2", env=amqp.env)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM deals WHERE id = %s FOR UPDATE", [entries[0].deal_id])
        for entry in (entries[0], *entries):
            send_closures([entry])
        busy = {"active": 1, "reserved": 1, "consumers": 1, "depth": 2}
        wait_until(lambda: figures(staff) == EMPTY | busy, 30, what=f"{busy}")
        worker.wait_for("closures.retry")
    wait_until(lambda: Deal.objects.filter(status=Status.CLOSED).count() == 3, 30)
    assert LedgerEntry.objects.filter(kind="close").count() == 3
    assert not DeadLetter.objects.exists()
    assert not DealEvent.objects.filter(kind="attempt").exists()


@pytest.mark.parametrize("amqp", ["quorum"], indirect=True)
def test_a_broker_that_is_away_is_told_and_a_worker_comes_back_with_it(
    amqp: Amqp, market: Market, staff: APIClient, celery_worker: Callable[..., Process]
) -> None:
    [entry] = fired(market)
    celery_worker(env=amqp.env)
    wait_until(lambda: figures(staff) == EMPTY | {"consumers": 1}, what="the worker consumes")
    amqp.rabbit.stop()
    answer = staff.get("/api/admin/workers/queues")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
    assert not broker_is_healthy()
    with pytest.raises(queues.BrokerError):
        send_closures([entry])
    amqp.rabbit.start()
    wait_until(broker_is_healthy, 30)
    send_closures([entry])
    wait_until(lambda: Deal.objects.get().status == Status.CLOSED, 60)
    assert LedgerEntry.objects.filter(kind="close").count() == 1


@pytest.mark.parametrize("amqp", ["quorum"], indirect=True)
def test_a_message_to_an_exchange_that_was_deleted_fails_like_any_other_and_the_next_one_arrives(
    amqp: Amqp, market: Market
) -> None:
    [item] = fired(market)
    send_closures([item])
    with current_app.connection_for_write() as link, link.channel() as channel:
        channel.exchange_delete("closures")
    with pytest.raises(BrokerError, match="NotFound"):
        send_closures([item])
    send_closures([item])
    wait_until(lambda: queues.depth("closures") == 2, what="the exchange and its binding were declared anew")
