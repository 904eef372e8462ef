"""Paths of the control calls and dead letters, under api/admin/workers/. Each also answers with a trailing slash."""

from __future__ import annotations

from deals.api.paths import both_spellings
from monitoring.api import control_views as views

control_urls = [
    *both_spellings("restart", views.Restart.as_view(), "workers-restart"),
    *both_spellings("shutdown", views.Shutdown.as_view(), "workers-shutdown"),
    *both_spellings("emergency-stop", views.EmergencyStop.as_view(), "workers-emergency-stop"),
    *both_spellings("resume", views.Resume.as_view(), "workers-resume"),
    *both_spellings("operations/<int:id>", views.OperationDetail.as_view(), "workers-operation"),
    *both_spellings("dead-letters", views.DeadLetterList.as_view(), "dead-letters"),
    *both_spellings("dead-letters/<int:id>", views.DeadLetterDetail.as_view(), "dead-letter"),
    *both_spellings("dead-letters/<int:id>/requeue", views.DeadLetterRequeue.as_view(), "dead-letter-requeue"),
    *both_spellings("dead-letters/<int:id>/discard", views.DeadLetterDiscard.as_view(), "dead-letter-discard"),
]
