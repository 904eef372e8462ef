"""The admin site's log-in, with the throttles of the API's: guessing passwords is slow at every door."""

from __future__ import annotations

import math

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.views import APIView

from deals.api.throttles import LoginAddressThrottle, LoginNameThrottle


def login(request: HttpRequest) -> HttpResponse:
    """Django's own page; 429 with Retry-After (seconds) after too many attempts from an address or for a user name."""
    if request.method == "POST":
        attempt = Request(request, parsers=[FormParser(), MultiPartParser()])
        for throttle in (LoginAddressThrottle(), LoginNameThrottle()):
            if not throttle.allow_request(attempt, APIView()):
                wait_s = math.ceil(throttle.wait() or 60)
                text = f"Too many attempts to log in. Try again in {wait_s} s.\n"
                return HttpResponse(text, status=429, content_type="text/plain", headers={"Retry-After": str(wait_s)})
    return admin.site.login(request)
