"""The composition root: settings, URLs, ASGI and the Celery application. Nobody imports it but entry points."""

from cryptocraze.celery import app as celery_app

__all__ = ["celery_app"]
