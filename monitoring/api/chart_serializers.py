"""Charts of prices on the wire: prices in USDT a unit; times in UTC, in the sparklines as ms since 1970."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from deals.api.fields import PLAIN, PlainDecimal, SignedDecimal
from deals.models import CloseReason
from monitoring import charts
from workers.candles import Candle
from workers.clock import to_datetime

POINT = {
    "type": "array",
    "minItems": 2,
    "maxItems": 2,
    "items": {"oneOf": [{"type": "integer"}, {"type": "string", "pattern": PLAIN}]},
}


@extend_schema_field({"type": "object", "additionalProperties": {"type": "array", "items": POINT}})
class ClosingPrices(serializers.Field[Any, Any, Any, Any]):
    """By symbol, as they are: a serializer for each of some thousand points would cost more than reading them."""

    def to_representation(self, value: Any) -> Any:
        """Unchanged."""
        return value


class _SpanSerializer(serializers.Serializer[Any]):
    """What time a chart shows."""

    from_ = serializers.DateTimeField(source="from_at", help_text="Where the chart begins.")
    to = serializers.DateTimeField(source="to_at", help_text="Where it ends.")
    step_s = serializers.IntegerField(help_text="What time one price, or one candle, stands for, s.")

    def get_fields(self) -> dict[str, Any]:
        """`from` is a word of Python's."""
        return {name.rstrip("_"): field for name, field in super().get_fields().items()}


class PriceHistorySerializer(_SpanSerializer):
    """The last quarter of an hour of every symbol."""

    symbols = ClosingPrices(
        help_text="Each symbol's closing prices, oldest first: [beginning of the step in ms since 1970, price]. Steps "
        "without a tick, and symbols without any, are left out."
    )


class Instant(serializers.DateTimeField):
    """Milliseconds since 1970 as a time."""

    def to_representation(self, value: Any) -> Any:
        """As every other time."""
        return super().to_representation(to_datetime(value))


class CandleSerializer(serializers.Serializer[Candle]):
    """What the price did in one step."""

    at = Instant(source="at_ms", help_text="Beginning of the step.")
    open = PlainDecimal(help_text="The first price, USDT.")
    high = PlainDecimal(help_text="The highest, USDT.")
    low = PlainDecimal(help_text="The lowest, USDT.")
    close = PlainDecimal(help_text="The last, USDT.")


class TriggerBinSerializer(serializers.Serializer[charts.Bin]):
    """A step of the price axis that holds triggers."""

    price = PlainDecimal(help_text="Its middle, USDT.")
    count = serializers.IntegerField(source="deals", help_text="Armed deals with a trigger in it.")


class NearTriggersSerializer(serializers.Serializer[charts.NearTriggers]):
    """Where the triggers near the price lie, counted in the trigger book."""

    step = PlainDecimal(allow_null=True, help_text="How wide a step of the price axis is, USDT; null without a price.")
    upper = TriggerBinSerializer(
        many=True, help_text="Upper triggers, rising, at most 60 steps; empty ones are left out."
    )
    lower = TriggerBinSerializer(many=True, help_text="Lower triggers, as above.")


class ClosureMarkSerializer(serializers.Serializer[charts.ClosureMark]):
    """A closed deal."""

    deal_id = serializers.IntegerField(help_text="The deal.")
    at = serializers.DateTimeField(help_text="When it was closed.")
    price = PlainDecimal(help_text="At which price, USDT.")
    reason = serializers.ChoiceField(choices=CloseReason.choices, help_text="What closed it.")
    profit = SignedDecimal(help_text="Gain or loss after commission, USDT.")


class _PricesSerializer(_SpanSerializer):
    """What the charts of one symbol's price share."""

    price = PlainDecimal(allow_null=True, help_text="The last price, USDT; null: none yet.")
    candles = CandleSerializer(many=True, help_text="Oldest first; a step without a tick has none.")


class SymbolChartSerializer(_PricesSerializer):
    """A symbol's chart."""

    symbol = serializers.CharField(help_text="For example BTCUSDT.")
    age_ms = serializers.IntegerField(
        allow_null=True, help_text="Age of the last price by exchange time or receipt, whichever is older, ms."
    )
    triggers = NearTriggersSerializer(help_text="Triggers as far to both sides as the chart reaches, at least 1 %.")
    closures = ClosureMarkSerializer(
        many=True,
        help_text="The latest 200 of these minutes, newest first; sought among the latest 50,000 of all symbols.",
    )


class DealChartSerializer(_PricesSerializer):
    """A deal's chart, from 5 minutes before it was opened until 5 minutes after it was closed; at most a day back."""

    deal_id = serializers.IntegerField(source="deal.pk", help_text="The deal.")
    symbol = serializers.CharField(source="deal.symbol", help_text="Its symbol.")
    opened_at = serializers.DateTimeField(source="deal.opened_at", help_text="When it was opened.")
    open_price = PlainDecimal(source="deal.open_price", help_text="At which price, USDT.")
    take_profit = PlainDecimal(source="deal.take_profit", allow_null=True, help_text="Its Take Profit; null: none.")
    stop_loss = PlainDecimal(source="deal.stop_loss", allow_null=True, help_text="Its Stop Loss; null: none.")
    closed_at = serializers.DateTimeField(source="deal.closed_at", allow_null=True, help_text="Null while it is open.")
    close_price = PlainDecimal(source="deal.close_price", allow_null=True, help_text="Null while it is open.")
