"""The live event stream: who may listen is settled as for every other view, then an event loop sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from deals.api.schema import refusals
from deals.errors import Unavailable
from monitoring.api.operator_views import OtherFormatView
from monitoring.stream import hub


class StreamEventSerializer(serializers.Serializer[Any]):
    """The `data:` of one event."""

    type = serializers.ChoiceField(
        choices=["health", "prices", "closure", "trigger", "state", "deadLetter", "operation", "reset"],
        help_text="What it is about.",
    )
    data = serializers.JSONField(help_text="Depends on the type; see docs/stream.md.")  # type: ignore[assignment]  # a field of that name
    timestamp = serializers.DateTimeField(help_text="When it was written, UTC.")


class Stream(OtherFormatView):
    """What happens, live."""

    known_parameters = ("lastEventId",)

    @extend_schema(
        summary="Follow what happens",
        parameters=[
            OpenApiParameter(
                "Last-Event-ID",
                str,
                OpenApiParameter.HEADER,
                description="The id of the last event that was seen: what came after it is sent first. Browsers send "
                "it by themselves when they come back.",
            ),
            OpenApiParameter("lastEventId", str, description="The same for clients that cannot send the header."),
        ],
        responses={
            (200, "text/event-stream"): OpenApiResponse(
                StreamEventSerializer,
                description="Server-Sent Events without names, until the client leaves.",
            ),
            **refusals(400, 401, 403, 429, 503),
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Health (on change and every 5 s), prices (at most 4 times a second, what changed), closures, fired deals,
        state, dead letters and operations as Server-Sent Events.

        Resumable within the last 10,000 events. A cursor that is not known any more is answered with one `reset`
        event: a snapshot, and the id to go on from. Who reads too slowly is cut off and may come back.
        """
        if not isinstance(request._request, ASGIRequest):  # noqa: SLF001 - Django's own request is asked
            raise Unavailable("not_streaming", "This server cannot stream: ask one that speaks ASGI.")
        cursor = request.headers.get("Last-Event-ID") or request.query_params.get("lastEventId") or None
        events = _nothing() if request.method == "HEAD" else hub.stream(cursor)
        if not connection.in_atomic_block:
            connection.close()  # back to the pool: the answer lasts for hours
        return StreamingHttpResponse(
            events,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


async def _nothing() -> AsyncIterator[bytes]:
    yield b""
