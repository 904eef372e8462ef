"""Celery ignores options that it doesn't know: every CELERY_* name is checked against its own list."""

from __future__ import annotations

from celery.app.defaults import SETTING_KEYS

from cryptocraze import broker, settings
from cryptocraze.celery import app
from workers import queues


def test_every_celery_setting_is_one_that_celery_knows() -> None:
    names = {name.removeprefix("CELERY_").lower() for name in dir(settings) if name.startswith("CELERY_")}
    assert names - set(SETTING_KEYS) == set()
    assert len(names) > 20


def test_transport_options_are_ones_that_kombus_redis_channel_reads() -> None:
    from kombu.transport.redis import Channel

    assert set(settings.CELERY_BROKER_TRANSPORT_OPTIONS) - set(Channel.from_transport_options) == set()


def test_a_worker_without_flags_serves_every_queue_and_nothing_else() -> None:
    assert set(app.amqp.queues) == {"closures", "sweep", "default"}


def test_every_routed_task_goes_to_a_queue_that_exists() -> None:
    assert {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()} <= set(app.amqp.queues)


def test_messages_come_back_later_than_a_task_may_run() -> None:
    visibility_s = settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"]
    assert visibility_s > settings.CELERY_TASK_TIME_LIMIT + settings.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT


def test_messages_to_rabbitmq_are_confirmed_and_nothing_is_waited_for_without_limit() -> None:
    options = broker.transport_options("amqp://rabbit//", "")
    assert options["confirm_publish"]
    assert set(options) - {"confirm_publish"} <= queues.TIMEOUTS
    assert queues.TIMEOUTS & set(settings.CELERY_BROKER_TRANSPORT_OPTIONS)


def test_quorum_queues_stand_behind_exchanges_that_delayed_messages_can_pass() -> None:
    for queue in broker.queues("quorum"):
        assert (queue.queue_arguments, queue.exchange.type) == ({"x-queue-type": "quorum"}, "topic")
    assert {queue.name for queue in broker.queues("quorum")} == {queue.name for queue in broker.queues("classic")}
