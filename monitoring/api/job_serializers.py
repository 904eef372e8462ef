"""One deal's monitoring on the wire: camelCase names, times in UTC, durations in ms, prices in USDT a unit."""

from __future__ import annotations

from rest_framework import serializers

from deals.api.fields import PlainDecimal, SignedDecimal
from deals.api.serializers import DealSerializer
from deals.models import DealEvent
from monitoring import jobs
from monitoring.prices import LastPrice
from workers.models import DeadLetter

# --- jobs --------------------------------------------------------------------------------------------------------


class TriggerSerializer(serializers.Serializer[jobs.TriggerView]):
    """A trigger of a deal."""

    side = serializers.CharField(help_text="`upper`: a price ≥ it fires; `lower`: a price ≤ it fires.")
    level = serializers.CharField(help_text="`take_profit` or `stop_loss`.")
    price = PlainDecimal(help_text="USDT a unit.")
    distance = SignedDecimal(
        allow_null=True, help_text="USDT that the price has to go; not above 0: reached; null without a price."
    )
    distance_percent = SignedDecimal(allow_null=True, help_text="The same in % of the price; null as above.")


class LastPriceSerializer(serializers.Serializer[LastPrice]):
    """The symbol's last price."""

    price = PlainDecimal(help_text="USDT a unit.")
    at = serializers.DateTimeField(help_text="Its exchange time.")
    age_ms = serializers.IntegerField(help_text="By exchange time or receipt, whichever is older, ms.")
    is_fresh = serializers.BooleanField(help_text="False: nothing fires on it.")


class FiredSerializer(serializers.Serializer[jobs.FiredView]):
    """The price that a deal has fired at."""

    version = serializers.IntegerField(help_text="The deal's version then; another one now closes nothing.")
    price = PlainDecimal(help_text="USDT a unit.")
    trade_id = serializers.IntegerField(allow_null=True, help_text="The exchange's trade, if it has a number.")
    detector = serializers.CharField(help_text="`tick`, `arm` or `sweep`.")
    tick_at = serializers.DateTimeField(help_text="Exchange time of the price.")
    received_at = serializers.DateTimeField(help_text="When it reached us.")
    fired_at = serializers.DateTimeField(help_text="When the deal fired.")


class EventSerializer(serializers.Serializer[DealEvent]):
    """Something that happened to a deal."""

    kind = serializers.CharField(
        help_text="`opened`, `armed`, `amended`, `fired`, `attempt`, `closed`, `removed`, `expired` or `dead`."
    )
    at = serializers.DateTimeField(help_text="When.")
    version = serializers.IntegerField(help_text="The deal's version then.")
    price = PlainDecimal(allow_null=True, help_text="The price that it happened at, USDT; null: none.")
    trade_id = serializers.IntegerField(allow_null=True, help_text="The exchange's trade; null: none.")
    detector = serializers.CharField(allow_null=True, help_text="Who saw that it was due; null: nobody.")
    error = serializers.CharField(help_text="What went wrong; empty: nothing.")
    gap_ms = serializers.IntegerField(
        allow_null=True,
        help_text="After an outage: how long there had been no price of the symbol before this one, ms; null: none.",
    )


class JobLetterSerializer(serializers.Serializer[DeadLetter]):
    """A dead letter of the deal."""

    id = serializers.IntegerField(help_text="The letter's number.")
    state = serializers.CharField(help_text="`failed`, `requeued`, `resolved` or `discarded`.")
    version = serializers.IntegerField(help_text="The deal's version when it fired.")
    price = PlainDecimal(help_text="The price that it fired at, USDT.")
    error_class = serializers.CharField(help_text="Class of the error.")
    error = serializers.CharField(help_text="Its text.")
    attempts = serializers.IntegerField(help_text="How often it was tried.")
    last_failed_at = serializers.DateTimeField(help_text="When it failed last.")


class JobSerializer(serializers.Serializer[jobs.Job]):
    """A deal's monitoring, explained."""

    deal = DealSerializer(help_text="The deal.")
    state = serializers.CharField(
        help_text="`fired` (not settled yet), or the deal's monitoring state: `none`, `pending`, `armed`, `removed`, "
        "`expired`, `dead`, `ended`."
    )
    version = serializers.IntegerField(
        source="deal.watch_version", help_text="Rises with every change of what is watched."
    )
    watched_from = serializers.DateTimeField(
        source="deal.watched_from_at", help_text="Only prices after this one close the deal."
    )
    system_state = serializers.CharField(help_text="`running`, `draining`, `stopped` or `halted`.")
    triggers = TriggerSerializer(many=True, help_text="What fires the deal, and how far the price has to go.")
    redis_answers = serializers.BooleanField(help_text="False: lastPrice, bookVersion and fired could not be read.")
    last_price = LastPriceSerializer(allow_null=True, help_text="The symbol's last price; null: none.")
    book_version = serializers.IntegerField(
        allow_null=True, help_text="The version that the trigger book holds; null: it does not hold the deal."
    )
    fired = FiredSerializer(allow_null=True, help_text="The price that it fired at; null: it has not, or is settled.")
    attempts = serializers.IntegerField(help_text="How often settling it failed.")
    last_error = serializers.CharField(allow_null=True, help_text="The last error; null: none.")
    why_open = serializers.ListField(
        child=serializers.CharField(), help_text="Why an open deal has not closed; empty when it is closed."
    )
    history = EventSerializer(many=True, help_text="Everything that happened to it, oldest first.")
    dead_letters = JobLetterSerializer(many=True, help_text="Its dead letters, oldest first.")
