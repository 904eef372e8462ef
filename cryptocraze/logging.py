"""Structured logs: JSON in production, readable in development. Event names are constants, values are fields."""

from __future__ import annotations

import logging.config
import os
from collections.abc import MutableMapping
from typing import Any

import structlog

SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def _add_process(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["process"] = os.environ.get("PROCESS_NAME", "manage")
    return event


def _without_request(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Django hands its whole request along: its query may hold names, and the message says the path already."""
    event.pop("request", None)
    return event


def _renderer(*, json: bool) -> Any:
    if json:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=bool(os.environ.get("FORCE_COLOR")), pad_event_to=24)


def logging_config(level: str, *, json: bool) -> dict[str, Any]:
    """The standard library's logging configuration: one handler to stderr through structlog's formatter."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*SHARED_PROCESSORS, _add_process, _without_request],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(json=json)],
            },
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "uvicorn.access": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "django_celery_beat": {"level": "WARNING"},
        },
    }


PROCESSORS: list[Any] = [
    structlog.stdlib.filter_by_level,
    *SHARED_PROCESSORS,
    _add_process,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]
"""One list for good: loggers keep hold of the one that they first met."""


def configure(config: dict[str, Any]) -> None:
    """Apply the configuration; called by Django at set-up, and again by Celery's."""
    logging.config.dictConfig(config)
    structlog.configure(
        processors=PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
