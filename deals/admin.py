"""The operator's pages of accounts, deals, ledger and notifications. Nothing is edited; actions call the services."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import structlog
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db import DatabaseError, InterfaceError, models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter

from deals import admin_users, quotes, services  # noqa: F401 - registers users and groups
from deals.admin_base import (
    NOTHING,
    ReadOnlyAdmin,
    deal_link,
    facts,
    instant,
    label,
    number,
    user,
)
from deals.errors import DealError
from deals.models import Account, Deal, LedgerEntry, Notification
from deals.money import plain
from deals.queries import notifications
from deals.statistics import statistics_of

log = structlog.get_logger(__name__)

ACTION_LIMIT: Final = 500
SHOWN_FAILURES: Final = 20
USER: Final[Any] = user("account.user")
STATUS_COLOURS: Final = {"open": "info", "closed": "default"}
MONITORING_COLOURS: Final = {
    "armed": "success",
    "pending": "warning",
    "dead": "danger",
    "removed": "warning",
    "expired": "warning",
}


class SymbolFilter(DropdownFilter):  # type: ignore[misc]  # Unfold ships no types
    """By symbol, from the settings: no query over all deals."""

    title = "symbol"
    parameter_name = "symbol"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        """Every symbol that can be traded."""
        return [(symbol, symbol) for symbol in settings.SYMBOLS]

    def queryset(self, _request: HttpRequest, rows: QuerySet[Deal]) -> QuerySet[Deal]:
        """Narrowed to the chosen one."""
        return rows.filter(symbol=self.value()) if self.value() else rows


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """Money and statistics of each user."""

    list_display = (
        "user",
        number("balance", "Balance, USDT"),
        number("margin", "Margin, USDT"),
        number("closed_deals", "Closed deals"),
        "winning_share",
        number("total_volume", "Total volume"),
        number("largest_profit", "Largest profit"),
        number("largest_loss", "Largest loss"),
        instant("created_at", "Created"),
    )
    list_select_related = ("user",)
    search_fields = ("user__username",)
    search_help_text = "Search by user name"
    _money = facts(Account, "balance", "margin", "created_at")
    _figures = (
        *facts(Account, "closed_deals", "winning_deals", "total_volume", "total_amount"),
        *facts(Account, "largest_profit", "largest_loss"),
        "winning_share",
        "average_amount",
    )
    fieldsets = (
        (None, {"fields": ("user", *_money)}),
        ("Statistics of closed deals", {"fields": _figures}),
    )
    readonly_fields = ("user", *_money, *_figures)

    @admin.display(description="Winning share")
    def winning_share(self, account: Account) -> str:
        """In percent."""
        share = statistics_of(account).winning_share
        return NOTHING if share is None else f"{share:.2%}"

    @admin.display(description="Average amount")
    def average_amount(self, account: Account) -> str:
        """In USDT."""
        average = statistics_of(account).average_amount
        return NOTHING if average is None else plain(average)


@admin.register(Deal)
class DealAdmin(ReadOnlyAdmin):
    """All deals; closing, arming and disarming through the services."""

    actions = ("close_now", "arm", "disarm")
    list_display = (
        "id",
        USER,
        "symbol",
        "direction",
        number("amount", "Amount"),
        number("multiplier", "×"),
        number("open_price", "Open price"),
        number("take_profit", "Take Profit"),
        number("stop_loss", "Stop Loss"),
        label("status", "Status", STATUS_COLOURS),
        label("monitoring", "Monitoring", MONITORING_COLOURS),
        "close_reason",
        number("profit", "Profit"),
        instant("opened_at", "Opened"),
    )
    list_select_related = ("account__user",)
    list_filter = (
        ("status", ChoicesDropdownFilter),
        SymbolFilter,
        ("direction", ChoicesDropdownFilter),
        ("close_reason", ChoicesDropdownFilter),
        ("monitoring", ChoicesDropdownFilter),
    )
    list_filter_submit = True
    search_fields = ("account__user__username", "id__exact")
    search_help_text = "Search by user name or deal number"
    _terms = facts(Deal, "symbol", "direction", "amount", "multiplier", "open_price", "opened_at", "client_id")
    _watch = facts(
        Deal, "take_profit", "stop_loss", "upper_trigger", "lower_trigger", "monitoring", "monitoring_since",
        "watch_version", "watched_from_seq", "watched_from_at", "watch_expires_at",
    )  # fmt: skip
    _closure = facts(
        Deal, "status", "close_reason", "detector", "close_price", "profit", "commission", "close_trade_id",
        "close_tick_at", "received_at", "fired_at", "started_at", "closed_at",
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": (USER, *_terms)}),
        ("Levels and monitoring", {"fields": _watch}),
        ("Closure", {"fields": _closure}),
    )
    readonly_fields = (USER, *_terms, *_watch, *_closure)

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """For the actions of the list; a deal's own page is read-only for everyone."""
        return obj is None and request.user.has_perm("deals.change_deal")

    @admin.action(description="Close now, at the current price", permissions=["change"])
    def close_now(self, request: HttpRequest, deals: QuerySet[Deal]) -> TemplateResponse | None:
        """Ask first: it cannot be undone."""
        if "confirmed" not in request.POST:
            return self._confirmation(request, deals)
        self._each(request, deals, _close, "closed")
        return None

    @admin.action(description="Arm: watch the levels from now on", permissions=["change"])
    def arm(self, request: HttpRequest, deals: QuerySet[Deal]) -> None:
        """Through the service; a deal that is watched already stays as it is."""
        self._each(request, deals, _arm, "armed")

    @admin.action(description="Disarm: do not watch the levels any more", permissions=["change"])
    def disarm(self, request: HttpRequest, deals: QuerySet[Deal]) -> None:
        """Through the service, which tells the user."""
        self._each(request, deals, _disarm, "disarmed")

    def _confirmation(self, request: HttpRequest, deals: QuerySet[Deal]) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Close these deals now?",
            "opts": self.model._meta,  # noqa: SLF001 - what Django's templates ask for
            "deals": deals.select_related("account__user").order_by("pk")[: ACTION_LIMIT + 1],
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/deals/deal/close_now.html", context)

    def _each(self, request: HttpRequest, deals: QuerySet[Deal], work: Callable[[Deal], Deal], done: str) -> None:
        """Do it deal by deal, each in its own transaction; one failure never stops the others."""
        chosen = list(deals.order_by("pk")[: ACTION_LIMIT + 1])
        if len(chosen) > ACTION_LIMIT:
            self.message_user(request, f"Choose at most {ACTION_LIMIT} deals at a time.", messages.ERROR)
            return
        failures = []
        for deal in chosen:
            failure = _attempt(work, deal)
            if failure is None:
                self.log_change(request, deal, f"{done} by hand")
            else:
                failures.append(f"Deal {deal.pk} was not {done}: {failure}")
        if succeeded := len(chosen) - len(failures):
            plural = "deal was" if succeeded == 1 else "deals were"
            self.message_user(request, f"{succeeded} {plural} {done}.", messages.SUCCESS)
        self._tell(request, failures)

    def _tell(self, request: HttpRequest, failures: Iterable[str]) -> None:
        told = list(failures)
        for failure in told[:SHOWN_FAILURES]:
            self.message_user(request, failure, messages.ERROR)
        if len(told) > SHOWN_FAILURES:
            self.message_user(request, f"… and {len(told) - SHOWN_FAILURES} more.", messages.ERROR)


def _attempt(work: Callable[[Deal], Deal], deal: Deal) -> str | None:
    """Why it failed, or None."""
    try:
        work(deal)
    except DealError as error:
        return error.message
    except (DatabaseError, InterfaceError) as error:
        log.exception("admin.action_failed", deal_id=deal.pk)
        return f"the database refused ({type(error).__name__})."
    return None


def _close(deal: Deal) -> Deal:
    return services.close_deal(deal_id=deal.pk, quote=quotes.board().quote(deal.symbol))


def _arm(deal: Deal) -> Deal:
    return services.add_to_monitoring(deal_id=deal.pk, quote=quotes.board().quote(deal.symbol))


def _disarm(deal: Deal) -> Deal:
    return services.remove_from_monitoring(deal_id=deal.pk)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnlyAdmin):
    """Every posting."""

    list_display = (
        "id",
        USER,
        "kind",
        number("amount", "Amount, USDT"),
        deal_link,
        instant("created_at", "Posted"),
    )
    list_select_related = ("account__user",)
    list_filter = (("kind", ChoicesDropdownFilter),)
    search_fields = ("account__user__username", "deal__id__exact")
    search_help_text = "Search by user name or deal number"
    readonly_fields: ClassVar[Any] = (USER, deal_link, *facts(LedgerEntry, "kind", "amount", "created_at"))
    fields = readonly_fields


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    """What users were told."""

    list_display = (
        "id",
        USER,
        "kind",
        deal_link,
        instant("created_at", "Created"),
        instant("told_at", "Published"),
    )
    list_select_related = ("account__user",)
    list_filter = (("kind", ChoicesDropdownFilter),)
    search_fields = ("account__user__username", "deal__id__exact")
    search_help_text = "Search by user name or deal number"
    readonly_fields: ClassVar[Any] = (
        USER,
        deal_link,
        *facts(Notification, "kind", "version", "created_at"),
        instant("told_at", "Published at", "milliseconds"),
    )
    fields = readonly_fields

    def get_queryset(self, _request: HttpRequest) -> QuerySet[Notification]:
        """With the time that each was published, wherever it is written."""
        return notifications().order_by(*self.ordering)
