"""The Content-Security-Policy of every page: nothing but our own files, and no script in a page.

The policy stands in the settings. What is added here, and why:

* The admin site's pages are built on Alpine.js, which turns the expressions in their attributes into functions:
  `unsafe-eval`. Unfold ships no other build of it. No text of users gets into such an attribute.
* Unfold writes its colours into a `<style>` of each page, htmx adds one of its own, Swagger UI has one, and both set
  `style` attributes: `unsafe-inline`, for styles only.
"""

from __future__ import annotations

from typing import Final

from csp import constants as csp
from csp.middleware import CSPMiddleware
from django.http import HttpRequest
from django.http.response import HttpResponseBase

STYLES: Final = {"style-src": [csp.SELF, csp.UNSAFE_INLINE]}
ADDED: Final = {
    "/admin/": STYLES | {"script-src": [csp.SELF, csp.UNSAFE_EVAL]},
    "/api/docs": STYLES,
}


class ContentSecurityPolicy(CSPMiddleware):
    """Adds the header."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """The settings' policy with what this page needs besides."""
        for place, directives in ADDED.items():
            if request.path.startswith(place):
                response._csp_update = directives  # type: ignore[attr-defined]  # noqa: SLF001 - as its decorators do
        return super().process_response(request, response)
