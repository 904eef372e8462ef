"""The Celery application. `celery -A cryptocraze worker` is correct as it is: every setting lives in settings.py."""

import os

# Read by Celery at import: SIGTERM means a soft shutdown, which puts unfinished work back before the process ends.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")

from celery import Celery

from cryptocraze import patches

patches.apply()
app = Celery("cryptocraze")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
