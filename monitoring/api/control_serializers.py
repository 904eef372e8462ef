"""What the control calls and the dead letters send and read. camelCase on the wire; times are UTC, prices USDT."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from deals.api.fields import PlainDecimal, WholeNumber, Words
from deals.api.serializers import RequestSerializer
from deals.models import SystemState
from deals.queries import current_state
from workers import control, operations
from workers.models import DeadLetter, Operation

LONGEST_REASON = 500
LONGEST_TIMEOUT_S = 3600


class ReasonSerializer(RequestSerializer):
    """Why it is done."""

    reason = Words(max_length=LONGEST_REASON, help_text="Why; kept in the audit log. 1–500 characters.")


class DrainSerializer(ReasonSerializer):
    """Why it is done, and how long to wait for what is in flight."""

    timeout_s = WholeNumber(
        min_value=1,
        max_value=LONGEST_TIMEOUT_S,
        default=int(control.DRAIN_TIMEOUT_S),
        help_text=f"Whole seconds to wait for what is in flight, 1–{LONGEST_TIMEOUT_S}.",
    )


class StepSerializer(serializers.Serializer[Any]):
    """A step of an operation that is done."""

    name = serializers.CharField(
        help_text="`draining`, `drain`, `pools`, `book`, `counts`, `resume`, `self-check`, `halt`."
    )
    at = serializers.DateTimeField(help_text="When it was done.")
    outcome = serializers.CharField(help_text="What it found or did, for people.")


class OperationSerializer(serializers.Serializer[Operation]):
    """Something an operator does to the whole system, step by step."""

    id = serializers.IntegerField(help_text="The operation's number.")
    kind = serializers.ChoiceField(choices=Operation.Kind.choices, help_text="What was asked for.")
    state = serializers.SerializerMethodField(
        help_text="`running`, `done`, `failed` (see `error`), or `abandoned`: its process died, and the system stays "
        "as it is until someone resumes it."
    )
    reason = serializers.CharField(help_text="Why, in the words of who asked for it.")
    requested_by = serializers.CharField(help_text="User name; for commands that of the machine's user.")
    source = serializers.CharField(help_text="Network address, `unknown` behind a socket, or `cli`.")  # type: ignore[assignment]  # fields are taken off the class
    steps = StepSerializer(many=True, help_text="What is done so far, in order.")
    error = serializers.CharField(help_text="What failed; empty unless it did.")
    created_at = serializers.DateTimeField(help_text="When it began.")
    heartbeat_at = serializers.DateTimeField(help_text="When its process last said that it is alive, every second.")
    finished_at = serializers.DateTimeField(allow_null=True, help_text="When it ended; null while it runs.")
    system_state = serializers.SerializerMethodField(help_text="The state of the system at the time of this answer.")

    def get_state(self, operation: Operation) -> Operation.State:
        """As its row and its heartbeat say."""
        return operations.state_of(operation)

    def get_system_state(self, _operation: Operation) -> SystemState.State:
        """From PostgreSQL."""
        return SystemState.State(current_state().state)


class DeadLetterSerializer(serializers.Serializer[DeadLetter]):
    """A deal that could not be settled after its attempts, with the price it was due at."""

    id = serializers.IntegerField(help_text="The letter's number.")
    state = serializers.ChoiceField(
        choices=DeadLetter.State.choices,
        help_text="`failed`: waits for an operator; `requeued`: on its way again; `resolved`: closed, or watched anew; "
        "`discarded`: given up, the deal is out of monitoring.",
    )
    deal_id = serializers.IntegerField(help_text="The deal's number.")
    symbol = serializers.CharField(source="deal.symbol", help_text="The deal's symbol.")
    version = serializers.IntegerField(help_text="watchVersion of the deal when it fired.")
    price = PlainDecimal(help_text="The price that fired, USDT: what the deal closes at when it is requeued.")
    fired_at = serializers.DateTimeField(allow_null=True, help_text="When the deal fired.")
    task = serializers.CharField(help_text="The task that failed.")
    arguments = serializers.CharField(
        source="fired", help_text="Its argument for this deal: the fired entry, as the book keeps it."
    )
    error_class = serializers.CharField(help_text="The kind of the last error.")
    error = serializers.CharField(help_text="The text of the last error.")
    traceback = serializers.CharField(help_text="Where the last error came from.")
    attempts = serializers.IntegerField(help_text="How often settling it was tried.")
    first_failed_at = serializers.DateTimeField(help_text="When it failed first.")
    last_failed_at = serializers.DateTimeField(help_text="When it failed last.")
