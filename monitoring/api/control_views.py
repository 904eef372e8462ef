"""The operator's control calls and the dead letters. All staff may look; each change needs its right and is audited."""

from __future__ import annotations

from typing import Any, Final, cast

import django_filters
from django.contrib.auth.models import User
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework.generics import ListAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deals.api import schema
from deals.api.filters import require_known_parameters, symbol_filter
from deals.api.pagination import NewestFirst
from deals.api.schema import READING, WRITING
from deals.api.serializers import ErrorSerializer, RequestSerializer
from deals.errors import Conflict, NotFound
from monitoring.api import control_serializers as wire
from monitoring.api.permissions import MayLook
from monitoring.jobs import LARGEST_ID
from workers import control, dead_letters
from workers.audit import actor_of
from workers.models import DeadLetter, Operation
from workers.operations import Started

ANSWER_WITHIN_S: Final = 5.0
CONTROLLING: Final = (409, *WRITING)


REFUSALS: Final = {
    403: "You are not staff, or have not the right to change things (group `operators`); or a session without its CSRF "
    "token (`permission_denied`).",
    404: "There is no such thing (`not_found`).",
    409: "Not in this state: `operation_in_progress`, `operation_failed`, `system_halted`, `letter_requeued`, "
    "`letter_discarded`, `deal_changed`, `deal_closed`.",
    503: "Not now: `system_not_running`, `static_only`, `stop_not_confirmed`, `redis_unavailable`, "
    "`database_unavailable`.",
}


def refusals(*statuses: int) -> dict[int, OpenApiResponse]:
    """The error answers of an endpoint, as an operator needs them explained."""
    own = {status: OpenApiResponse(ErrorSerializer, description=text) for status, text in REFUSALS.items()}
    return {status: own.get(status, answer) for status, answer in schema.refusals(*statuses).items()}


class StaffWith(BasePermission):
    """Members of staff who have the view's `right`."""

    message = "Only staff with this right may do this: ask for the group `operators`."

    def has_permission(self, request: Request, view: Any) -> bool:
        """False for everyone else: 401 without a log-in, 403 with one."""
        user = cast("User", request.user)
        return bool(user.is_authenticated and user.is_staff and user.has_perm(view.right))


def checked(serializer: RequestSerializer) -> dict[str, Any]:
    """The request's fields. Raises ValidationError."""
    serializer.is_valid(raise_exception=True)
    return cast("dict[str, Any]", serializer.validated_data)


def answer(operation: Operation) -> Response:
    """200 with an operation that is done, 202 while it runs. Raises Conflict `operation_failed`."""
    if operation.state == Operation.State.RUNNING:
        return Response(wire.OperationSerializer(operation).data, status=202)
    if operation.state != Operation.State.DONE:
        what = operation.error or operation.state
        raise Conflict("operation_failed", f"Operation {operation.pk} ({operation.kind}) failed: {what}")
    return Response(wire.OperationSerializer(operation).data)


def described(done: str) -> dict[int, Any]:
    """The answers of a control call, for OpenAPI."""
    return {
        200: OpenApiResponse(wire.OperationSerializer, description=done),
        202: OpenApiResponse(
            wire.OperationSerializer,
            description=f"It runs longer than {ANSWER_WITHIN_S:.0f} s: ask for `operations/{{id}}`.",
        ),
        **refusals(*CONTROLLING),
    }


# --- control ------------------------------------------------------------------------------------------------------


class ControlView(APIView):
    """Something done to the whole system."""

    permission_classes = (StaffWith,)
    right = "workers.control_system"

    def finish(self, started: Started) -> Response:
        """Wait a little for its end."""
        return answer(started.wait(ANSWER_WITHIN_S))


class Restart(ControlView):
    """Restarting."""

    @extend_schema(
        summary="Restart the workers",
        request=wire.DrainSerializer,
        responses=described("It runs again, and a synthetic deal has fired and closed as proof."),
    )
    def post(self, request: Request) -> Response:
        """Drain, replace the worker pools, rebuild the trigger book from PostgreSQL, compare, run again, prove it.

        Asking while a restart runs answers that one. What fails is said (409 `operation_failed`), and the system stays
        stopped. A halted system is not restarted (409 `system_halted`): resume it first.
        """
        asked = checked(wire.DrainSerializer(data=request.data))
        return self.finish(control.restart(asked["reason"], actor_of(request), timeout_s=asked["timeout_s"]))


class Shutdown(ControlView):
    """Draining and stopping."""

    @extend_schema(
        summary="Drain and stop",
        request=wire.DrainSerializer,
        responses=described("It is stopped (or halted already), and nothing is in flight."),
    )
    def post(self, request: Request) -> Response:
        """Stop firing, sweeping, opening and arming, and finish what is in flight; the processes stay up, idle.

        Stopping twice answers the state. What still runs after the timeout is named (409 `operation_failed`) and goes
        on ending; the state stays `draining`.
        """
        asked = checked(wire.DrainSerializer(data=request.data))
        return self.finish(control.shutdown(asked["reason"], actor_of(request), timeout_s=asked["timeout_s"]))


class EmergencyStop(ControlView):
    """Stopping at once. Never throttled: it must neither be refused nor wait for the Redis that counts requests."""

    throttle_classes = ()

    @extend_schema(
        summary="Stop at once",
        request=wire.ReasonSerializer,
        responses={
            200: OpenApiResponse(wire.OperationSerializer, description="It is halted: no deal opens or closes."),
            **refusals(400, 401, 403, 413, 415, 503),
        },
    )
    def post(self, request: Request) -> Response:
        """After the answer, which comes within a second, no deal opens or closes until someone resumes.

        Works while Redis is away and while another operation runs. Stopping twice answers the state.
        """
        asked = checked(wire.ReasonSerializer(data=request.data))
        return answer(control.emergency_stop(asked["reason"], actor_of(request)))


class Resume(ControlView):
    """Running again."""

    @extend_schema(summary="Resume", request=wire.ReasonSerializer, responses=described("It is running."))
    def post(self, request: Request) -> Response:
        """Run again. What had fired before the stop keeps its price; every other deal is watched from this moment on.

        What crossed its trigger and came back meanwhile stays open; what still lies beyond closes at the next price.
        """
        asked = checked(wire.ReasonSerializer(data=request.data))
        return self.finish(control.resume(asked["reason"], actor_of(request)))


class OperationDetail(APIView):
    """One operation."""

    permission_classes = (MayLook,)

    @extend_schema(
        summary="Read an operation", responses={200: wire.OperationSerializer, **refusals(403, 404, *READING)}
    )
    def get(self, _request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """A restart, shutdown, emergency stop or resume: how far it is, or what came of it."""
        operation = Operation.objects.filter(pk=id).first()
        if operation is None:
            raise NotFound("There is no such operation.")
        return Response(wire.OperationSerializer(operation).data)


# --- dead letters -------------------------------------------------------------------------------------------------


class DeadLetterFilter(django_filters.FilterSet):  # type: ignore[misc]  # it ships no types
    """`?state=failed&symbol=BTCUSDT&dealId=7`."""

    state = django_filters.ChoiceFilter(choices=DeadLetter.State.choices, label="Only letters in this state.")
    symbol = symbol_filter("deal__symbol")
    dealId = extend_schema_field({"type": "integer", "format": "int64", "minimum": 1, "maximum": LARGEST_ID})(  # noqa: N815 - the name in the address
        django_filters.NumberFilter(
            field_name="deal_id", min_value=1, max_value=LARGEST_ID, decimal_places=0, label="Only this deal's letters."
        )
    )

    class Meta:
        model = DeadLetter
        fields: Any = ["state", "symbol", "dealId"]


class DeadLetterList(ListAPIView[DeadLetter]):
    """The dead letters."""

    permission_classes = (MayLook,)
    serializer_class = wire.DeadLetterSerializer
    pagination_class = NewestFirst
    filterset_class = DeadLetterFilter
    queryset = DeadLetter.objects.select_related("deal")

    @extend_schema(
        summary="List dead letters",
        responses={200: wire.DeadLetterSerializer(many=True), **refusals(400, 403, *READING)},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Deals that could not be settled after their attempts, newest first."""
        require_known_parameters(request, DeadLetterFilter.get_fields())
        return super().get(request, *args, **kwargs)


class DeadLetterDetail(APIView):
    """One dead letter."""

    permission_classes = (MayLook,)

    @extend_schema(
        summary="Read a dead letter", responses={200: wire.DeadLetterSerializer, **refusals(403, 404, *READING)}
    )
    def get(self, _request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """A deal that could not be settled, and why."""
        return Response(wire.DeadLetterSerializer(dead_letters.find(id)).data)


class DeadLetterAction(APIView):
    """Something done with one dead letter."""

    permission_classes = (StaffWith,)
    right = "workers.change_deadletter"


class DeadLetterRequeue(DeadLetterAction):
    """Another attempt."""

    @extend_schema(
        summary="Requeue a dead letter",
        request=wire.ReasonSerializer,
        responses={200: wire.DeadLetterSerializer, **refusals(404, *CONTROLLING)},
    )
    def post(self, request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """Try to close the deal again, at the price that fired. Doing it twice changes nothing.

        The letter of a deal that is closed by now is `resolved`. Refused with 409 when it was discarded
        (`letter_discarded`) or the deal has changed since (`deal_changed`).
        """
        asked = checked(wire.ReasonSerializer(data=request.data))
        letter = dead_letters.requeue(id, actor_of(request), asked["reason"])
        return Response(wire.DeadLetterSerializer(letter).data)


class DeadLetterDiscard(DeadLetterAction):
    """Giving up."""

    @extend_schema(
        summary="Discard a dead letter",
        request=wire.ReasonSerializer,
        responses={200: wire.DeadLetterSerializer, **refusals(404, *CONTROLLING)},
    )
    def post(self, request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """Take the deal out of monitoring for good and tell its user; it stays open. Doing it twice changes nothing.

        Refused with 409 `letter_requeued` while the deal is on its way.
        """
        asked = checked(wire.ReasonSerializer(data=request.data))
        letter = dead_letters.discard(id, actor_of(request), asked["reason"])
        return Response(wire.DeadLetterSerializer(letter).data)
