"""One shape for every error: {"error": {"code", "message", "field"}}. A fault of ours is not hidden here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import structlog
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from djangorestframework_camel_case.util import camelize_re, underscore_to_camel
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings

from deals.errors import Conflict, DealError, NotFound, Unavailable

log = structlog.get_logger(__name__)

STATUSES: Final = ((NotFound, 404), (Conflict, 409), (Unavailable, 503), (DealError, 400))
OWN_CODES: Final = frozenset({"required", "unknown_field", "unknown_parameter"})
FIELD_CODES: Final = {
    "symbol": "unknown_symbol",
    "take_profit": "invalid_level",
    "stop_loss": "invalid_level",
    "dealId": "invalid_deal_id",
}
"""A value that cannot be read has the domain's code for one that is out of bounds; else `invalid_<field>`."""


class Problem(NamedTuple):
    """An error as it is answered; `field` is a Python name and is written in camelCase."""

    status: int
    code: str
    message: str
    field: str | None = None
    headers: Mapping[str, str] = {}

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        field = None if self.field is None else camel(self.field)
        return {"error": {"code": self.code, "message": self.message, "field": field}}


def exception_handler(error: Exception, _context: Mapping[str, Any]) -> Response | None:
    """Answer an error in the one shape, or None for a fault of ours: Django logs it and answers 500."""
    problem = _problem(error)
    if problem is None:
        return None
    return Response(problem.body, status=problem.status, headers=dict(problem.headers))


def camel(name: str) -> str:
    """A Python name as clients write it."""
    return re.sub(camelize_re, underscore_to_camel, name)


def _problem(error: Exception) -> Problem | None:
    problem = None
    match error:
        case DealError():
            status = next(status for kind, status in STATUSES if isinstance(error, kind))
            problem = Problem(status, error.code, error.message, error.field)
        case exceptions.ValidationError():
            problem = _validation_problem(error.detail)
        case exceptions.APIException():
            problem = _api_problem(error)
        case Http404():
            problem = Problem(404, "not_found", "There is nothing here.")
        case PermissionDenied():
            problem = Problem(403, "permission_denied", "You may not do this.")
        case SuspiciousOperation():
            problem = Problem(400, "bad_request", "The request cannot be read.")
        case OperationalError() | InterfaceError():
            log.warning("api.database_trouble", error=str(error))
            problem = Problem(503, "database_unavailable", "The database does not answer; try again.", None, _retry(1))
    return problem


def _api_problem(error: exceptions.APIException) -> Problem:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if isinstance(error, exceptions.Throttled):
        headers |= _retry(getattr(error, "wait", None))
    return Problem(error.status_code, str(error.get_codes()), str(error.detail), None, headers)


def _retry(wait_s: float | None) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(wait_s or 1)))}


def _validation_problem(detail: Any) -> Problem:
    """The first of the errors; a client mends one at a time, and the order is that of the fields."""
    field = None
    while isinstance(detail, (dict, list)):
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            field = None if name == api_settings.NON_FIELD_ERRORS_KEY else str(name)
        else:
            detail = detail[0]
    return Problem(400, _validation_code(field, detail.code), str(detail), field)


def _validation_code(field: str | None, code: str) -> str:
    if code in OWN_CODES:
        return code
    return "invalid_body" if field is None else FIELD_CODES.get(field, f"invalid_{field}")


# --- what fails outside the API's views ----------------------------------------------------------------------------


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400, for API paths in the one shape."""
    if not _is_api(request):
        return defaults.bad_request(request, exception)
    return _answer(Problem(HTTPStatus.BAD_REQUEST, "bad_request", "The request cannot be read."))


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500, for API paths in the one shape; Django has logged the error."""
    if not _is_api(request):
        return defaults.server_error(request)
    return _answer(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "Something went wrong on our side."))


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def _answer(problem: Problem) -> JsonResponse:
    return JsonResponse(problem.body, status=problem.status)
