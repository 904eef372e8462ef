"""What the OpenAPI document says besides the views: how things are refused, and each path once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import get_class
from drf_spectacular.utils import OpenApiResponse

from deals.api.serializers import ErrorSerializer, RequestSerializer

REFUSALS: Final = {
    400: "A value is missing, cannot be read or is not allowed; nothing was changed. Codes: `required`, "
    "`unknown_field`, `unknown_parameter`, `malformed_json`, `invalid_body`, `invalid_<field>`, "
    "`unknown_symbol`, `invalid_level`, `level_on_wrong_side`, `levels_equal`, `insufficient_balance`.",
    401: "No valid token or session (`not_authenticated`, `authentication_failed`, `invalid_credentials`).",
    403: "A session without its CSRF token (`permission_denied`).",
    404: "There is no such thing, or it is not yours (`not_found`).",
    409: "The deal is closed already (`deal_closed`), or the `clientId` belongs to a deal with other terms "
    "(`client_id_reused`). Nothing was changed.",
    413: "The body is too large (`body_too_large`).",
    415: "The body is not `application/json` (`unsupported_media_type`).",
    429: "Too many requests (`throttled`); `Retry-After` says in how many seconds to come back.",
    503: "Not now; nothing was changed: `no_price`, `stale_price`, `system_not_running`, `database_unavailable`.",
}
READING: Final = (401, 429, 503)
WRITING: Final = (400, 401, 403, 413, 415, 429, 503)


def refusals(*statuses: int) -> dict[int, OpenApiResponse]:
    """The error answers of an endpoint."""
    return {status: OpenApiResponse(ErrorSerializer, description=REFUSALS[status]) for status in sorted(statuses)}


class RequestBody(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # its class hook has no types
    """Requests have no other fields than those named."""

    target_class = "deals.api.serializers.RequestSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        """As every serializer, closed."""
        describe: Any = auto_schema._map_serializer  # noqa: SLF001 - what its own extensions call
        request: type[RequestSerializer] = get_class(self.target)
        return {
            **describe(self.target, direction, bypass_extensions=True),
            "additionalProperties": False,
            **request.document,
        }


def without_second_spelling(endpoints: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Preprocessing hook: every path also answers with a trailing slash; the document shows it without."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]
