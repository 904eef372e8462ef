"""The operator's pages of control: system state with its actions, operations, audit log. Actions ask for a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminTextInputWidget

from deals.admin_base import NOTHING, ReadOnlyAdmin, facts, instant, label
from deals.errors import DealError
from deals.models import SystemState
from workers import control, operations
from workers.audit import Actor, actor_of
from workers.models import AuditEntry, Operation
from workers.operations import Started
from workers.retry import DATABASE_ERRORS

if TYPE_CHECKING:  # Unfold ships no types

    def action(**_options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
    def display(**_options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
else:
    from unfold.decorators import action, display

ANSWER_WITHIN_S: Final = 5.0
STATE_COLOURS: Final = {"running": "success", "draining": "warning", "stopped": "warning", "halted": "danger"}
OPERATION_COLOURS: Final = {"done": "success", "running": "info", "failed": "danger", "abandoned": "danger"}


class ReasonForm(forms.Form):
    """Why it is done."""

    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget(attrs={"autofocus": True, "autocomplete": "off"})
    )


def ask_reason(
    request: HttpRequest,
    page: admin.ModelAdmin[Any],
    *,
    title: str,
    warning: str,
    button: str,
    rows: Sequence[models.Model] = (),
    action_name: str = "",
) -> str | TemplateResponse:
    """The reason that was typed, or the page that asks for it."""
    form = ReasonForm(request.POST if "confirmed" in request.POST else None)
    if form.is_valid():
        return str(form.cleaned_data["reason"])
    meta = page.model._meta  # noqa: SLF001 - what Django's templates ask for
    context = {
        **page.admin_site.each_context(request),
        "title": title,
        "warning": warning,
        "button": button,
        "form": form,
        "rows": rows,
        "action": action_name,
        "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
        "opts": meta,
        "back": reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"),
    }
    return TemplateResponse(request, "admin/workers/ask_reason.html", context)


@admin.register(SystemState)
class SystemStateAdmin(ReadOnlyAdmin):
    """The one row that says whether deals may open, fire and settle, and what can be done about it."""

    actions = None
    actions_list = ("restart", "shutdown", "resume", "emergency_stop")
    list_display = (label("state", "State", STATE_COLOURS), instant("changed_at", "Since"), "reason")
    _facts = facts(SystemState, "state", "version", "changed_at", "reason")
    fields = _facts
    readonly_fields = _facts

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Only operators."""
        return request.user.has_perm("workers.control_system")

    @action(description="Restart", url_path="restart", permissions=["control"], icon="restart_alt")
    def restart(self, request: HttpRequest) -> HttpResponse:
        """Drain, replace the worker pools, rebuild the book, run again, prove it."""
        return self._control(
            request,
            control.restart,
            title="Restart the workers?",
            warning="Nothing fires until it is done: what is in flight is finished, the worker pools are replaced, the "
            "trigger book is rebuilt, and a synthetic deal is closed as proof. If anything fails it stays stopped.",
            button="Restart",
        )

    @action(description="Drain and stop", url_path="shutdown", permissions=["control"], icon="stop_circle")
    def shutdown(self, request: HttpRequest) -> HttpResponse:
        """Stop firing and sweeping, finish what is in flight."""
        return self._control(
            request,
            control.shutdown,
            title="Drain and stop?",
            warning="What is in flight is finished. Then no Take Profit and no Stop Loss fires, and nothing opens, "
            "until someone resumes. Users may still close by hand.",
            button="Drain and stop",
        )

    @action(description="Resume", url_path="resume", permissions=["control"], icon="play_circle")
    def resume(self, request: HttpRequest) -> HttpResponse:
        """Run again."""
        return self._control(
            request,
            control.resume,
            title="Resume?",
            warning="Every watched deal is watched from this moment on; what had fired before closes at its price.",
            button="Resume",
        )

    @action(description="Emergency stop", url_path="emergency-stop", permissions=["control"], icon="dangerous")
    def emergency_stop(self, request: HttpRequest) -> HttpResponse:
        """Stop at once."""
        return self._control(
            request,
            control.emergency_stop,
            title="Stop at once?",
            warning="From the answer on no deal opens or closes, not even by hand, until someone resumes.",
            button="Stop now",
        )

    def _control(
        self,
        request: HttpRequest,
        work: Callable[[str, Actor], Started | Operation],
        *,
        title: str,
        warning: str,
        button: str,
    ) -> HttpResponse:
        reason = ask_reason(request, self, title=title, warning=warning, button=button)
        if not isinstance(reason, str):
            return reason
        try:
            begun = work(reason, actor_of(request))
            operation = begun.wait(ANSWER_WITHIN_S) if isinstance(begun, Started) else begun
        except DealError as error:
            self.message_user(request, error.message, messages.ERROR)
        except DATABASE_ERRORS as error:
            self.message_user(request, f"The database does not answer: {error}", messages.ERROR)
        else:
            self._tell(request, operation)
        return redirect("admin:deals_systemstate_changelist")

    def _tell(self, request: HttpRequest, operation: Operation) -> None:
        address = reverse("admin:workers_operation_change", args=[operation.pk])
        text, level = {
            Operation.State.DONE: ("is done", messages.SUCCESS),
            Operation.State.RUNNING: ("is running", messages.INFO),
        }.get(Operation.State(operation.state), (f"failed: {operation.error}", messages.ERROR))
        shown = format_html('<a href="{}">Operation {}</a> ({}) {}.', address, operation.pk, operation.kind, text)
        self.message_user(request, shown, level)


@admin.register(Operation)
class OperationAdmin(ReadOnlyAdmin):
    """Restarts, shutdowns, emergency stops and resumes, with their steps."""

    list_display = (
        "id",
        "kind",
        "shown_state",
        "requested_by",
        "source",
        "reason",
        instant("created_at", "Began"),
        instant("finished_at", "Ended"),
    )
    list_filter = (("kind", ChoicesDropdownFilter), ("state", ChoicesDropdownFilter))
    search_fields = ("requested_by", "reason")
    search_help_text = "Search by user name or reason"
    _facts = facts(
        Operation, "kind", "requested_by", "source", "reason", "error", "created_at", "heartbeat_at", "finished_at"
    )
    fields: ClassVar[Any] = ("shown_state", *_facts, "shown_steps")
    readonly_fields = fields

    @display(description="State", label=OPERATION_COLOURS)
    def shown_state(self, operation: Operation) -> str:
        """`abandoned` also when it is said to run and its process has died."""
        return str(operations.state_of(operation))

    @admin.display(description="Steps")
    def shown_steps(self, operation: Operation) -> str:
        """A line a step."""
        lines = [(step["at"], step["name"], step["outcome"]) for step in operation.steps]
        return format_html_join("", "<div>{} – {}: {}</div>", lines) or NOTHING


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who asked for what, from where, why, and what came of it."""

    list_display = ("id", instant("at", "At"), "who", "source", "action", "target", "reason", "outcome")
    list_filter = ("action",)
    search_fields = ("who", "target", "reason")
    search_help_text = "Search by user name, target or reason"
    fields = facts(AuditEntry, "at", "who", "source", "action", "target", "reason", "outcome")
    readonly_fields = fields
