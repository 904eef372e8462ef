"""Paths of the simulator's clients. Each also answers with a trailing slash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path, re_path

from deals.api import views


def _both(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    return [path(route, view, name=name), path(f"{route}/", view)]


urlpatterns = [
    *_both("deals", views.DealList.as_view(), "deals"),
    *_both("deals/<int:id>", views.DealDetail.as_view(), "deal"),
    *_both("deals/<int:id>/close", views.DealClose.as_view(), "deal-close"),
    *_both("account", views.AccountDetail.as_view(), "account"),
    *_both("account/ledger", views.LedgerList.as_view(), "ledger"),
    *_both("notifications", views.NotificationList.as_view(), "notifications"),
    *_both("prices", views.PriceList.as_view(), "prices"),
    *_both("token", views.TokenLogin.as_view(), "token"),
    *_both("session", views.SessionLogin.as_view(), "session"),
    # Whatever else begins with api/ and was not taken by an earlier include.
    re_path(r"", views.Nothing.as_view()),
]
