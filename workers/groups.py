"""The two groups of people who run the system, and what each may do."""

from __future__ import annotations

from typing import Any, Final

OPERATORS: Final = "operators"
SUPPORT: Final = "support"

READ_APPS: Final = ("deals", "workers", "django_celery_beat")
CONTROL: Final = (
    ("deals", "change_deal"),
    ("workers", "control_system"),
    ("workers", "change_deadletter"),
    ("django_celery_beat", "change_periodictask"),
    ("django_celery_beat", "add_intervalschedule"),
    ("django_celery_beat", "change_intervalschedule"),
)


def create_groups(group_model: Any, permission_model: Any) -> None:
    """Create the groups that are missing, with their permissions; what an operator changed in an existing one stays.

    The models are arguments because a migration has its own.
    """
    readable = permission_model.objects.filter(content_type__app_label__in=READ_APPS, codename__startswith="view_")
    for name, granted in ((SUPPORT, ()), (OPERATORS, CONTROL)):
        group, created = group_model.objects.get_or_create(name=name)
        if not created:
            continue
        group.permissions.add(*readable)
        for app, codename in granted:
            group.permissions.add(permission_model.objects.get(content_type__app_label=app, codename=codename))
