"""The operator's pages of what drives the domain: dead letters, finished jobs, the sweep's positions, the schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django_celery_beat import admin as beat
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from deals.admin_base import ModelAdmin, ReadOnlyAdmin, deal_link, facts, instant, label, number
from deals.errors import DealError
from workers import dead_letters
from workers.admin_control import ask_reason
from workers.audit import actor_of
from workers.models import DeadLetter, JobLog, SweepPosition

ACTION_LIMIT: Final = 100

admin.site.unregister([ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule])


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """Deals that could not be settled, with the price they were due at."""

    actions = ("requeue", "discard")
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

    def has_handle_permission(self, request: HttpRequest) -> bool:
        """Only operators."""
        return request.user.has_perm("workers.change_deadletter")

    @admin.action(description="Requeue: try to close at the price that fired", permissions=["handle"])
    def requeue(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> TemplateResponse | None:
        """Ask for a reason, then put the deals back."""
        return self._handle(
            request, letters, dead_letters.requeue, title="Requeue these dead letters?", button="Requeue",
            warning="Each deal closes at the price that fired, if its data can be settled now.",
        )  # fmt: skip

    @admin.action(description="Discard: take the deals out of monitoring", permissions=["handle"])
    def discard(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> TemplateResponse | None:
        """Ask for a reason, then give the deals up."""
        return self._handle(
            request, letters, dead_letters.discard, title="Discard these dead letters?", button="Discard",
            warning="Each deal stays open, is not watched any more, and its user is told.",
        )  # fmt: skip

    def _handle(
        self, request: HttpRequest, letters: QuerySet[DeadLetter], work: Callable[..., DeadLetter], **texts: str
    ) -> TemplateResponse | None:
        """One by one, each in its own transaction; one failure never stops the others."""
        chosen = list(letters.order_by("pk")[:ACTION_LIMIT])
        reason = ask_reason(request, self, rows=chosen, action_name=work.__name__, **texts)
        if not isinstance(reason, str):
            return reason
        for letter in chosen:
            try:
                handled = work(letter.pk, actor_of(request), reason)
            except DealError as error:
                self.message_user(request, f"Dead letter {letter.pk}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, f"Dead letter {letter.pk}: {handled.state}.", messages.SUCCESS)
        return None


@admin.register(JobLog)
class JobLogAdmin(ReadOnlyAdmin):
    """The messages that workers finished lately, and the tasks that failed for good."""

    list_display = (
        "task",
        label("state", "State", {"failed": "danger", "completed": "success"}),
        number("deals", "Deals"),
        number("closed", "Closed"),
        number("duration_ms", "Duration, ms"),
        instant("finished_at", "Finished"),
        "error",
    )
    list_filter = (("state", ChoicesDropdownFilter), "task")
    search_fields = ("task_id", "error")
    search_help_text = "Search by message or error"
    ordering = ("-finished_at", "-pk")
    fields = facts(
        JobLog, "task", "task_id", "state", "deals", "closed", "started_at", "finished_at", "duration_ms", "error"
    )
    readonly_fields = fields


@admin.register(SweepPosition)
class SweepPositionAdmin(ReadOnlyAdmin):
    """How far the sweep has got, by symbol."""

    list_display = ("symbol", number("seq", "Price sequence"))
    ordering = ("symbol",)
    fields = facts(SweepPosition, "symbol", "seq", "received_at", "unseen_from", "unseen_until")
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

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """django-celery-beat lets everyone who may look enable, disable and run tasks."""
        found: dict[str, Any] = super().get_actions(request)
        return found if self.has_change_permission(request) else {}


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
