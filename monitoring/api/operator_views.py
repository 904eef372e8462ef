"""The operators' REST API: read at the time of asking, staff only. Changing one deal's monitoring needs a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, cast

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deals.api.schema import refusals
from monitoring import closures, health, history, interventions, jobs, prices, queues, stats
from monitoring.api import export
from monitoring.api import serializers as wire
from monitoring.api.control_serializers import LONGEST_REASON, ReasonSerializer
from monitoring.api.failures import as_refusal
from monitoring.api.job_serializers import JobSerializer
from monitoring.api.permissions import MayChange, MayLook
from workers.audit import actor_of

LOOKING: Final = refusals(401, 403, 429, 503)
DEFAULT_MINUTES: Final = 60
MOST_MINUTES: Final = 1440
HISTORY_MINUTES: Final = 15
MOST_HISTORY_MINUTES: Final = 60
DEAL_ID = OpenApiParameter(
    "dealId",
    {"type": "integer", "format": "int64", "minimum": 0, "maximum": jobs.LARGEST_ID},
    OpenApiParameter.PATH,
    description="The deal's number.",
)


def _minutes_parameter(default: int, most: int, description: str) -> OpenApiParameter:
    """What `_minutes` reads."""
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return OpenApiParameter("minutes", schema, description=description)


class OperatorView(APIView):
    """Staff only; one error shape; no parameter is passed over in silence."""

    known_parameters: tuple[str, ...] = ()

    def get_permissions(self) -> list[BasePermission]:
        """Looking is for all staff; changing has a right of its own."""
        method = "GET" if self.request is None else str(self.request.method)
        changes = method not in SAFE_METHODS and method in self.allowed_methods
        return [MayChange() if changes else MayLook()]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Raises ValidationError `unknown_parameter` once it is known that the caller may ask."""
        super().initial(request, *args, **kwargs)
        for name in request.query_params:
            if name not in self.known_parameters:
                known = ", ".join(self.known_parameters) or "none"
                raise ValidationError(
                    {name: [ErrorDetail(f"There is no such parameter; known are: {known}.", code="unknown_parameter")]}
                )

    def handle_exception(self, exc: Exception) -> Response:
        """A server that is away is a 503 with its name."""
        return super().handle_exception(as_refusal(exc))


class OtherFormatView(OperatorView):
    """What it answers is no JSON, or not always, and it says itself what it is."""

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[BaseRenderer, str]:  # noqa: FBT001, FBT002 - the framework's signature
        """Errors are JSON whatever the request accepts, or names as `format`."""
        del request, force
        renderer = self.get_renderers()[0]
        return renderer, str(renderer.media_type)


class Health(OperatorView):
    """Whether every deal is protected."""

    @extend_schema(
        summary="Read the health",
        responses={
            200: OpenApiResponse(wire.HealthSerializer, description="Every deal is protected."),
            **LOOKING,
            503: OpenApiResponse(
                wire.HealthSerializer,
                description="Something is wrong: the checks say what. Or, in the shape of all errors, "
                "`database_unavailable` when PostgreSQL is away and cannot say who asks: ask `/health`.",
            ),
        },
    )
    def get(self, _request: Request) -> Response:
        """State, uptime, the four components with every check, and the figures over all of them."""
        report = health.report()
        return Response(wire.HealthSerializer(report).data, status=200 if report.is_healthy else 503)


class Stats(OperatorView):
    """The whole system on one page."""

    @extend_schema(summary="Read the statistics", responses={200: wire.StatsSerializer, **LOOKING})
    def get(self, _request: Request) -> Response:
        """Deals, queues, prices, the closures of the last 5 minutes with latency percentiles, and every process."""
        return Response(wire.StatsSerializer(stats.stats()).data)


class Queues(OperatorView):
    """The queues."""

    @extend_schema(summary="Read the queues", responses={200: wire.QueuesSerializer, **LOOKING})
    def get(self, _request: Request) -> Response:
        """Depth, age of the oldest message, active and reserved tasks, consumers; dead letters; finished jobs."""
        return Response(wire.QueuesSerializer(queues.all_queues()).data)


class Prices(OperatorView):
    """The feed."""

    @extend_schema(summary="Read the feed", responses={200: wire.FeedSerializer, **LOOKING})
    def get(self, _request: Request) -> Response:
        """Every symbol's price, age, ticks, armed deals and nearest triggers, and the processes that write them."""
        return Response(wire.FeedSerializer(prices.prices()).data)


class Closures(OperatorView):
    """How closing goes."""

    known_parameters = ("minutes",)

    @extend_schema(
        summary="Read the closures",
        parameters=[
            _minutes_parameter(DEFAULT_MINUTES, MOST_MINUTES, "How many minutes the figures reach back."),
        ],
        responses={200: wire.ClosuresSerializer, **refusals(400, 401, 403, 429, 503)},
    )
    def get(self, request: Request) -> Response:
        """Counts by reason and detector, success rate, latency percentiles, the latest closures and errors."""
        minutes = _minutes(request, DEFAULT_MINUTES, MOST_MINUTES)
        return Response(wire.ClosuresSerializer(closures.closures(minutes)).data)


class History(OperatorView):
    """The last minutes one by one."""

    known_parameters = ("minutes",)

    @extend_schema(
        summary="Read the last minutes one by one",
        parameters=[
            _minutes_parameter(HISTORY_MINUTES, MOST_HISTORY_MINUTES, "How many minutes, the running one included."),
        ],
        responses={200: wire.HistorySerializer, **refusals(400, 401, 403, 429, 503)},
    )
    def get(self, request: Request) -> Response:
        """Each minute's closures by reason, latency percentiles, and the most messages that waited in each queue."""
        minutes = _minutes(request, HISTORY_MINUTES, MOST_HISTORY_MINUTES)
        return Response(wire.HistorySerializer(history.history(minutes)).data)


class Job(OperatorView):
    """One deal's monitoring."""

    @property
    def known_parameters(self) -> tuple[str, ...]:  # type: ignore[override]  # it depends on the method
        """A client that cannot send a body with DELETE gives its reason in the address."""
        return ("reason",) if self.request.method == "DELETE" else ()

    @extend_schema(
        summary="Explain a deal's monitoring",
        parameters=[DEAL_ID],
        responses={200: JobSerializer, **refusals(400, 401, 403, 404, 429, 503)},
    )
    def get(self, _request: Request, **path: str) -> Response:
        """Triggers and the distance to each, state, history, attempts, errors, and why an open deal has not closed."""
        return _job(deal_number(path))

    @extend_schema(
        summary="Take a deal out of monitoring",
        parameters=[
            DEAL_ID,
            OpenApiParameter(
                "reason",
                {"type": "string", "minLength": 1, "maxLength": LONGEST_REASON},
                required=True,
                description="Why; kept in the audit log. May be sent in a JSON body instead, as with POST.",
            ),
        ],
        request=ReasonSerializer,
        responses={200: JobSerializer, **refusals(400, 401, 403, 404, 409, 413, 415, 429, 503)},
    )
    def delete(self, request: Request, **path: str) -> Response:
        """For good: the sweep leaves it alone, its user is told, the call is recorded. Twice changes nothing."""
        number = deal_number(path)
        given = request.data or request.query_params.dict()
        interventions.remove_from_monitoring(number, operator=actor_of(request), reason=_reason(given))
        return _job(number)

    @extend_schema(
        summary="Put a deal back into monitoring",
        parameters=[DEAL_ID],
        request=ReasonSerializer,
        responses={200: JobSerializer, **refusals(400, 401, 403, 404, 409, 413, 415, 429, 503)},
    )
    def post(self, request: Request, **path: str) -> Response:
        """Watch it again, from the current price on; the call is recorded. One that is watched stays as it is."""
        number = deal_number(path)
        interventions.put_back(number, operator=actor_of(request), reason=_reason(request.data))
        return _job(number)


class Export(OtherFormatView):
    """Everything as one file."""

    known_parameters = ("format",)

    @extend_schema(
        summary="Download everything",
        parameters=[
            OpenApiParameter(
                "format",
                {"type": "string", "enum": ["json", "csv"], "default": "json"},
                description="`csv` has one line a figure: part, path, value.",
            )
        ],
        responses={
            (200, "application/json"): wire.ExportSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            **refusals(400, 401, 403, 429, 503),
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Health, statistics, queues, prices and the closures of the last hour, streamed part by part."""
        kind = request.query_params.get("format", "json")
        writers: dict[str, tuple[Callable[[], Iterator[bytes]], str]] = {
            "json": (export.as_json, "application/json"),
            "csv": (export.as_csv, "text/csv; charset=utf-8"),
        }
        if kind not in writers:
            raise ValidationError({"format": f"The format must be one of {', '.join(writers)}."})
        write, content_type = writers[kind]
        name = f"cryptocraze-{timezone.now():%Y%m%dT%H%M%SZ}.{kind}"
        return StreamingHttpResponse(
            _stream(request, write()),
            content_type=content_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
        )


def _stream(request: Request, parts: Iterator[bytes]) -> Iterator[bytes] | AsyncIterator[bytes]:
    """Under ASGI each part is read in a thread, so that the event loop goes on."""
    if not isinstance(request._request, ASGIRequest):  # noqa: SLF001 - Django's own request is asked
        return parts

    async def stream() -> AsyncIterator[bytes]:
        while part := await sync_to_async(lambda: next(parts, b""))():
            yield part

    return stream()


def _job(deal_id: int) -> Response:
    return Response(JobSerializer(jobs.explain(deal_id)).data)


def deal_number(path: dict[str, str]) -> int:
    """The deal's number. Raises ValidationError `invalid_deal_id`."""
    text = path["dealId"]
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(jobs.LARGEST_ID))):
        raise ValidationError({"deal_id": "A deal has a whole number."})
    return int(text)


def _minutes(request: Request, default: int, most: int) -> int:
    """The parameter `minutes`. Raises ValidationError `invalid_minutes`."""
    text = request.query_params.get("minutes", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise ValidationError({"minutes": f"It must be a whole number from 1 to {most}."})
    return int(text)


def _reason(data: Any) -> str:
    serializer = ReasonSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    return cast("str", serializer.validated_data["reason"])
