"""The Celery application. `celery -A cryptocraze worker` is correct as it is: every setting lives in settings.py."""

import os
from typing import Any

# Read by Celery at import: SIGTERM means a soft shutdown, which puts unfinished work back before the process ends.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")

from celery import Celery
from celery.signals import setup_logging

from cryptocraze import patches
from workers import ending, vital_signs

patches.apply()
app = Celery("cryptocraze")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
vital_signs.install(app)
ending.install(app)


@setup_logging.connect(weak=False)
def log_as_django_does(**_signal: Any) -> None:
    """With a receiver Celery leaves logging alone; otherwise its own --loglevel would win over LOG_LEVEL."""
    from django.conf import settings

    from cryptocraze.logging import configure

    configure(settings.LOGGING)
