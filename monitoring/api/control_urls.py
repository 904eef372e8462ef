"""Paths of the control calls and dead letters, under api/admin/workers/. Each also answers with a trailing slash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path

from monitoring.api import control_views as views


def _both(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    return [path(route, view, name=name), path(f"{route}/", view)]


control_urls = [
    *_both("restart", views.Restart.as_view(), "workers-restart"),
    *_both("shutdown", views.Shutdown.as_view(), "workers-shutdown"),
    *_both("emergency-stop", views.EmergencyStop.as_view(), "workers-emergency-stop"),
    *_both("resume", views.Resume.as_view(), "workers-resume"),
    *_both("operations/<int:id>", views.OperationDetail.as_view(), "workers-operation"),
    *_both("dead-letters", views.DeadLetterList.as_view(), "dead-letters"),
    *_both("dead-letters/<int:id>", views.DeadLetterDetail.as_view(), "dead-letter"),
    *_both("dead-letters/<int:id>/requeue", views.DeadLetterRequeue.as_view(), "dead-letter-requeue"),
    *_both("dead-letters/<int:id>/discard", views.DeadLetterDiscard.as_view(), "dead-letter-discard"),
]
