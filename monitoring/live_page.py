"""The live page of the admin site: an empty frame. Its scripts fill it from the stream and the operators' REST API."""

from __future__ import annotations

from typing import cast

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template.response import TemplateResponse
from django.urls import reverse

from monitoring.advice import advice


def live_page(request: HttpRequest) -> TemplateResponse:
    """For all staff; `admin_view` asks everyone else to log in. What someone may not do is not on the page."""
    user = cast("User", request.user)
    may = {
        "control": user.has_perm("workers.control_system"),
        "letters": user.has_perm("workers.view_deadletter"),
        "change_letters": user.has_perm("workers.change_deadletter"),
        "deals": user.has_perm("deals.view_deal"),
        "users": user.has_perm("auth.view_user"),
    }
    told = {
        "csrf": get_token(request),
        "may": may,
        "api": reverse("workers-health").removesuffix("health"),
        "dealPage": reverse("admin:deals_deal_change", args=[0]),
        "userPage": reverse("admin:auth_user_change", args=[0]),
        "symbols": settings.SYMBOLS,
    }
    context = {
        **admin.site.each_context(request),
        "title": "Live",
        "is_fullwidth": "1",
        "may": may,
        "told": told,
        "advice": advice(),
    }
    return TemplateResponse(request, "monitoring/live.html", context)
