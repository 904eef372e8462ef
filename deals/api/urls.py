"""Paths of the simulator's clients. Each also answers with a trailing slash."""

from __future__ import annotations

from django.urls import re_path

from deals.api import views
from deals.api.paths import both_spellings

urlpatterns = [
    *both_spellings("deals", views.DealList.as_view(), "deals"),
    *both_spellings("deals/<int:id>", views.DealDetail.as_view(), "deal"),
    *both_spellings("deals/<int:id>/close", views.DealClose.as_view(), "deal-close"),
    *both_spellings("account", views.AccountDetail.as_view(), "account"),
    *both_spellings("account/ledger", views.LedgerList.as_view(), "ledger"),
    *both_spellings("notifications", views.NotificationList.as_view(), "notifications"),
    *both_spellings("prices", views.PriceList.as_view(), "prices"),
    *both_spellings("token", views.TokenLogin.as_view(), "token"),
    *both_spellings("session", views.SessionLogin.as_view(), "session"),
    # Whatever else begins with api/ and was not taken by an earlier include.
    re_path(r"", views.Nothing.as_view()),
]
