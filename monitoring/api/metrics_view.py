"""`GET /metrics`: for Prometheus, and for staff."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.http import HttpResponse
from django.utils.crypto import constant_time_compare
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle

from monitoring import metrics
from monitoring.api.operator_views import LOOKING, OtherFormatView


class Scraper:
    """Who shows METRICS_TOKEN: may look at the metrics, and is nobody else."""

    pk: Final = "scraper"
    is_authenticated: Final = True
    is_staff: Final = True


class ScraperAuthentication(TokenAuthentication):
    """METRICS_TOKEN, which needs no database, or the token of a user."""

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        """Who shows this token. Raises AuthenticationFailed, django.db.OperationalError."""
        if settings.METRICS_TOKEN and constant_time_compare(key, settings.METRICS_TOKEN):
            return Scraper(), key
        return super().authenticate_credentials(key)


class ScraperScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How OpenAPI describes it."""

    target_class = ScraperAuthentication
    name = "scraperToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A header, as REST framework's own tokens."""
        del auto_schema
        text = "`Token …` with METRICS_TOKEN, or with the token of someone on the staff."
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": text}


class ScrapeThrottle(UserRateThrottle):
    """Scrapes of a caller. Counted by each process in its own memory: a scrape must not wait for a Redis that is
    away."""

    scope = "metrics"
    cache = LocMemCache("scrapes", {})


class Metrics(OtherFormatView):
    """Every metric."""

    authentication_classes = (ScraperAuthentication, SessionAuthentication)
    throttle_classes = (ScrapeThrottle,)

    @extend_schema(
        summary="Scrape the metrics",
        responses={
            (200, "text/plain"): OpenApiTypes.STR,
            (200, "application/openmetrics-text"): OpenApiTypes.STR,
            **LOOKING,
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """Prometheus' text format, or OpenMetrics if the `Accept` header asks for it; see docs/metrics.md.

        Answers while Redis, PostgreSQL or the broker is away, and says so in `cryptocraze_up`. Without PostgreSQL only
        METRICS_TOKEN can be checked: a user's token is refused with 503 `database_unavailable`.
        """
        answer = metrics.scrape(request.headers.get("accept", ""))
        return HttpResponse(answer.body, content_type=answer.content_type, headers={"Cache-Control": "no-store"})
