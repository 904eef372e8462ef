"""What every page of the admin site shares: Unfold's look, read-only rows, plain numbers, times with their zone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from deals.money import plain

if TYPE_CHECKING:  # Unfold ships no types; its classes extend Django's
    ModelAdmin = admin.ModelAdmin[Any]
else:
    from unfold.admin import ModelAdmin

Column = Callable[[Any], Any]
NOTHING: Final = "–"


class ReadOnlyAdmin(ModelAdmin):
    """A list with a page for each row: rows that services write and nobody edits."""

    list_fullwidth = True
    list_per_page = 50
    show_full_result_count = False
    ordering: ClassVar[Any] = ("-pk",)
    empty_value_display = NOTHING

    def has_add_permission(self, *_args: Any) -> bool:
        """Never."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: models.Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: models.Model | None = None) -> bool:
        """Never."""
        return False


def number(path: str, title: str) -> Column:
    """A column of numbers: plain, right-aligned, ordered by itself."""

    def show(row: Any) -> str:
        value = attrgetter(path)(row)
        return format_html('<div class="text-right whitespace-nowrap">{}</div>', _plain(value))

    return _named(show, path, title)


def instant(path: str, title: str, precision: str = "seconds") -> Column:
    """A column of times, to the second unless told otherwise, with the zone."""

    def show(row: Any) -> str:
        return format_html('<span class="whitespace-nowrap">{}</span>', utc_text(attrgetter(path)(row), precision))

    return _named(show, path, title)


def label(path: str, title: str, colours: Mapping[str, str]) -> Column:
    """A column of words, coloured by Unfold: danger, info, primary, success, warning, default."""

    def show(row: Any) -> Any:
        return attrgetter(path)(row)

    described: Any = _named(show, path, title)
    described.label = colours
    return show


def user(path: str) -> Column:
    """A column of user names; `path` leads to the user."""
    return _named(lambda row: attrgetter(path)(row).get_username(), f"{path}.username", "User")


@admin.display(description="Deal", ordering="deal")
def deal_link(row: Any) -> str:
    """A column that leads to the row's deal."""
    if row.deal_id is None:
        return NOTHING
    address = reverse("admin:deals_deal_change", args=[row.deal_id])
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', address, row.deal_id)


def facts(model: type[models.Model], *names: str) -> tuple[Any, ...]:
    """Fields of a row's own page: numbers plain, times exact with their zone, the rest as Django shows it."""
    return tuple(_fact(model, name) for name in names)


def _fact(model: type[models.Model], name: str) -> Column:
    field = model._meta.get_field(name)  # noqa: SLF001 - Django's documented way to a field

    def show(row: Any) -> Any:
        value = getattr(row, name)
        if isinstance(value, datetime):
            return utc_text(value, "milliseconds")
        if isinstance(value, Decimal):
            return _plain(value)
        if value is None or value == "":
            return NOTHING
        return getattr(row, f"get_{name}_display")() if getattr(field, "choices", None) else value

    title = str(getattr(field, "verbose_name", name)).capitalize()
    return _named(show, name, title)


def _named(show: Column, path: str, title: str) -> Column:
    show.__name__ = path.replace(".", "_")
    described: Any = show
    described.short_description = title
    described.admin_order_field = path.replace(".", "__")
    return show


def _plain(value: Decimal | float | None) -> str:
    if value is None:
        return NOTHING
    return plain(value) if isinstance(value, Decimal) else str(value)


def utc_text(value: datetime | None, precision: str) -> str:
    """A time with its zone, to `seconds` or `milliseconds`."""
    if value is None:
        return NOTHING
    return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ', timespec=precision)} UTC"
