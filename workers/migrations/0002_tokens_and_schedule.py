"""Fencing tokens of the prices process, and the schedule: rows of our own names only, never overwritten."""

from typing import Any

from django.db import migrations

# task name: (interval in seconds, queue, expires after seconds)
SCHEDULE = {
    "workers.sweep": (2, "sweep", 2),
    "workers.reconcile": (10, "default", 10),
    "workers.housekeeping": (600, "default", 600),
}


def create_schedule(apps: Any, _schema_editor: object) -> None:
    interval_model = apps.get_model("django_celery_beat", "IntervalSchedule")
    task_model = apps.get_model("django_celery_beat", "PeriodicTask")
    for task, (seconds, queue, expires) in SCHEDULE.items():
        interval, _ = interval_model.objects.get_or_create(every=seconds, period="seconds")
        task_model.objects.get_or_create(
            name=task, defaults={"task": task, "interval": interval, "queue": queue, "expire_seconds": expires}
        )


def delete_schedule(apps: Any, _schema_editor: object) -> None:
    apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(name__in=SCHEDULE).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0001_initial"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [
        migrations.RunSQL("CREATE SEQUENCE price_fencing_token", "DROP SEQUENCE price_fencing_token"),
        migrations.RunPython(create_schedule, delete_schedule),
    ]
