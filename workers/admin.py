"""The operator's pages of what drives the domain: dead letters, the sweep's positions, the schedule."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django_celery_beat import admin as beat
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from deals.admin_base import ModelAdmin, ReadOnlyAdmin, deal_link, facts, instant, label, number
from workers.models import DeadLetter, SweepPosition

admin.site.unregister([ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule])


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """Deals that could not be settled, with the price they were due at."""

    list_display = (
        "id",
        deal_link,
        label("state", "State", {"failed": "danger", "requeued": "info"}),
        number("price", "Price that fired"),
        number("attempts", "Attempts"),
        "error_class",
        instant("first_failed_at", "First failed"),
        instant("last_failed_at", "Last failed"),
    )
    list_filter = (("state", ChoicesDropdownFilter),)
    search_fields = ("deal__account__user__username", "deal__id__exact")
    search_help_text = "Search by user name or deal number"
    _facts = facts(
        DeadLetter, "state", "version", "task", "price", "fired", "fired_at", "error_class", "error",
        "traceback", "attempts", "first_failed_at", "last_failed_at",
    )  # fmt: skip
    fields: ClassVar[Any] = (deal_link, *_facts)
    readonly_fields = fields


@admin.register(SweepPosition)
class SweepPositionAdmin(ReadOnlyAdmin):
    """How far the sweep has got, by symbol."""

    list_display = ("symbol", number("seq", "Price sequence"))
    ordering = ("symbol",)
    fields = facts(SweepPosition, "symbol", "seq")
    readonly_fields = fields


class _TaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):  # type: ignore[misc]  # neither ships types
    """The registered tasks, in the look of the site."""


class PeriodicTaskForm(beat.PeriodicTaskForm):  # type: ignore[misc]  # it ships no types
    """django-celery-beat's form with the widgets of the site."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = _TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(beat.PeriodicTaskAdmin, ModelAdmin):  # type: ignore[misc]  # it ships no types
    """What beat sends, and when."""

    form = PeriodicTaskForm
    list_display = ("name", "enabled", "scheduler", "queue", "expire_seconds", instant("last_run_at", "Last run"))
    list_filter = ("enabled", "task")
    date_hierarchy = None


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(ModelAdmin):
    """Every so many seconds."""


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(beat.CrontabScheduleAdmin, ModelAdmin):  # type: ignore[misc]  # it ships no types
    """At times of the day."""

    inlines = ()


@admin.register(SolarSchedule)
class SolarScheduleAdmin(ModelAdmin):
    """At sunrise and the like."""


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(beat.ClockedScheduleAdmin, ModelAdmin):  # type: ignore[misc]  # it ships no types
    """Once, at a time."""

    inlines = ()
