"""What clients send and read. Names are camelCase on the wire; money is USDT, prices are USDT a unit, times are UTC."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from deals import money
from deals.api.errors import camel
from deals.api.fields import DecimalInput, ExactText, Multiplier, PlainDecimal, SignedDecimal, Words
from deals.models import Account, CloseReason, Deal, Direction, LedgerEntry, Monitoring, Notification, Status
from deals.statistics import Statistics, statistics_of

LEVEL_HELP = "A price in USDT, at most 15 significant digits and 12 decimals."


OPENING = OpenApiExample(
    "With both levels",
    request_only=True,
    value={
        "symbol": settings.SYMBOLS[0],
        "direction": "up",
        "amount": "100",
        "multiplier": 10,
        "takeProfit": "120000",
        "stopLoss": "80000",
    },
)
AMENDMENT = OpenApiExample(
    "Another Take Profit, no Stop Loss", request_only=True, value={"takeProfit": "125000", "stopLoss": None}
)


# --- requests --------------------------------------------------------------------------------------------------


class RequestSerializer(serializers.Serializer[Any]):
    """A request's body. Unknown fields are refused: a misspelt level would leave a deal unprotected."""

    document: dict[str, Any] = {}
    """What the OpenAPI document says of the whole body, besides its fields."""

    def to_internal_value(self, data: Any) -> Any:
        """The checked fields. Raises ValidationError, with the code `unknown_field` for a field that is none."""
        known = [str(field) for field in self.fields]
        for name in data:
            if name not in known:
                message = f"There is no such field; known are: {', '.join(map(camel, known)) or 'none'}."
                raise serializers.ValidationError({name: [ErrorDetail(message, code="unknown_field")]})
        return super().to_internal_value(data)


class NothingSerializer(RequestSerializer):
    """A body without fields; it may be left out."""


@extend_schema_field({"type": "string", "enum": list(settings.SYMBOLS), "example": settings.SYMBOLS[0]})
class SymbolName(Words):
    """The name of a symbol; whether there is such a symbol, the quote says."""


class OpenDealSerializer(RequestSerializer):
    """The terms of a new deal."""

    symbol = SymbolName(max_length=32, help_text="One of the symbols of `/api/prices`, for example BTCUSDT.")
    direction = serializers.ChoiceField(
        choices=Direction.choices, help_text="`up` gains when the price rises, `down` when it falls."
    )
    amount = DecimalInput(
        money.check_amount,
        label="The amount",
        help_text="USDT to lock as margin: more than 0, at most 8 decimals, at most the free balance.",
    )
    multiplier = Multiplier(help_text="Leverage, a whole number from 1 to 100.")
    take_profit = DecimalInput(
        money.check_price,
        label="Take Profit",
        default=None,
        allow_null=True,
        help_text=f"The deal closes when the price gets here. {LEVEL_HELP} Above the price for `up`, below for `down`.",
    )
    stop_loss = DecimalInput(
        money.check_price,
        label="Stop Loss",
        default=None,
        allow_null=True,
        help_text=f"The deal closes when the price gets here. {LEVEL_HELP} Below the price for `up`, above for `down`.",
    )
    client_id = Words(
        max_length=64,
        default=None,
        allow_null=True,
        help_text="A name of your own for this deal, unique among yours. Sending it again opens no second deal.",
    )


class AmendLevelsSerializer(RequestSerializer):
    """New levels of an open deal."""

    document = {"minProperties": 1}

    take_profit = DecimalInput(
        money.check_price,
        label="Take Profit",
        required=False,
        allow_null=True,
        help_text=f"{LEVEL_HELP} Null takes it away; left out, it stays as it is.",
    )
    stop_loss = DecimalInput(
        money.check_price,
        label="Stop Loss",
        required=False,
        allow_null=True,
        help_text=f"{LEVEL_HELP} Null takes it away; left out, it stays as it is.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """At least one level, or the request is a mistake."""
        if not attrs:
            raise serializers.ValidationError("Give takeProfit, stopLoss or both.", code="required")
        return attrs


class LoginSerializer(RequestSerializer):
    """A user name and its password."""

    username = Words(max_length=150, help_text="The user's name.")
    password = ExactText(max_length=4096, trim_whitespace=False, write_only=True, help_text="The user's password.")


# --- answers ---------------------------------------------------------------------------------------------------


class ErrorDetailSerializer(serializers.Serializer[Any]):
    """What went wrong."""

    code = serializers.CharField(help_text="Stable, for programs: `level_on_wrong_side`, `insufficient_balance`, …")
    message = serializers.CharField(help_text="One sentence for people.")
    field = serializers.CharField(allow_null=True, help_text="The field or parameter at fault, as it is sent; or null.")


class ErrorSerializer(serializers.Serializer[Any]):
    """Every error has this shape."""

    error = ErrorDetailSerializer(help_text="What went wrong.")


class DealSerializer(serializers.Serializer[Deal]):
    """A deal, open or closed."""

    id = serializers.IntegerField(help_text="The deal's number.")
    client_id = serializers.CharField(allow_null=True, help_text="The name that the client gave it.")
    symbol = serializers.CharField(help_text="What is traded, for example BTCUSDT.")
    direction = serializers.ChoiceField(choices=Direction.choices, help_text="`up` or `down`.")
    amount = PlainDecimal(help_text="Margin that the deal locks while it is open, USDT.")
    multiplier = serializers.IntegerField(help_text="Leverage, 1–100.")
    volume = serializers.SerializerMethodField(help_text="amount × multiplier, USDT.")
    open_price = PlainDecimal(help_text="Price at which it was opened, USDT.")
    take_profit = PlainDecimal(allow_null=True, help_text="Price at which it closes with a gain, USDT; null: none.")
    stop_loss = PlainDecimal(allow_null=True, help_text="Price at which it closes with a loss, USDT; null: none.")
    status = serializers.ChoiceField(choices=Status.choices, help_text="`open` or `closed`.")
    opened_at = serializers.DateTimeField(help_text="When it was opened.")
    monitoring = serializers.ChoiceField(
        choices=Monitoring.choices,
        help_text="Whether its levels are watched: `pending` and `armed` are; `none` has no levels; `removed`, "
        "`expired` and `dead` are not watched any more; `ended` belongs to closed deals.",
    )
    monitoring_since = serializers.DateTimeField(help_text="When `monitoring` last changed.")
    watch_expires_at = serializers.DateTimeField(
        allow_null=True, help_text="When watching ends by itself; null: never."
    )
    closed_at = serializers.DateTimeField(allow_null=True, help_text="When it was closed; null while open.")
    close_price = PlainDecimal(allow_null=True, help_text="Price at which it was closed, USDT; null while open.")
    close_reason = serializers.ChoiceField(
        choices=CloseReason.choices, allow_null=True, help_text="What closed it; null while open."
    )
    profit = SignedDecimal(
        allow_null=True, help_text="Gain or loss after commission, USDT, never below −amount; null while open."
    )
    commission = PlainDecimal(allow_null=True, help_text="Commission, contained in `profit`, USDT; null while open.")

    def get_volume(self, deal: Deal) -> str:
        """The notional; exact, for both factors are."""
        return money.plain(money.ARITHMETIC.multiply(deal.amount, deal.multiplier))


class StatisticsSerializer(serializers.Serializer[Statistics]):
    """Figures of the closed deals."""

    closed_deals = serializers.IntegerField(help_text="Number of closed deals.")
    winning_deals = serializers.IntegerField(help_text="Those with a profit above zero.")
    winning_share = PlainDecimal(
        allow_null=True, help_text="winningDeals ÷ closedDeals, 0–1, 4 decimals; null without closed deals."
    )
    total_volume = PlainDecimal(help_text="Sum of amount × multiplier, USDT.")
    average_amount = PlainDecimal(
        allow_null=True, help_text="Average amount of a deal, USDT; null without closed deals."
    )
    largest_profit = PlainDecimal(help_text="Largest profit of a deal, USDT; 0 when there was none.")
    largest_loss = SignedDecimal(help_text="Largest loss of a deal, USDT, as a negative number; 0 when there was none.")


class AccountSerializer(serializers.Serializer[Account]):
    """The user's money and statistics."""

    balance = PlainDecimal(help_text="Free balance, USDT: what new deals can lock.")
    margin = PlainDecimal(help_text="Locked by open deals, USDT.")
    statistics = serializers.SerializerMethodField(help_text="Figures of the closed deals.")
    created_at = serializers.DateTimeField(help_text="When the account was funded.")

    def get_statistics(self, account: Account) -> StatisticsSerializer:
        """As the account's counters say."""
        return StatisticsSerializer(statistics_of(account)).data  # type: ignore[return-value]  # the schema's type


class LedgerEntrySerializer(serializers.Serializer[LedgerEntry]):
    """A posting to the free balance. The balance is the sum of all."""

    id = serializers.IntegerField(help_text="The posting's number.")
    kind = serializers.ChoiceField(
        choices=LedgerEntry.Kind.choices,
        help_text="`funding` of the account, `open`: a deal locked its amount, `close`: amount and profit came back.",
    )
    amount = SignedDecimal(help_text="Change of the free balance, USDT.")
    deal_id = serializers.IntegerField(allow_null=True, help_text="The deal it belongs to; null for the funding.")
    created_at = serializers.DateTimeField(help_text="When it was posted.")


class NotificationSerializer(serializers.Serializer[Notification]):
    """What the user was told of a deal."""

    id = serializers.IntegerField(help_text="The notification's number.")
    kind = serializers.ChoiceField(
        choices=Notification.Kind.choices,
        help_text="`deal_closed`, or why an open deal's levels are not watched any more: `monitoring_expired` after "
        "its time, `monitoring_removed` by an operator, `monitoring_failed`: it could not be closed.",
    )
    deal_id = serializers.IntegerField(help_text="The deal's number.")
    symbol = serializers.CharField(source="deal.symbol", help_text="The deal's symbol.")
    close_reason = serializers.ChoiceField(
        choices=CloseReason.choices, source="deal.close_reason", allow_null=True, help_text="What closed it, or null."
    )
    close_price = PlainDecimal(
        source="deal.close_price", allow_null=True, help_text="Price at which it was closed, USDT, or null."
    )
    profit = SignedDecimal(
        source="deal.profit", allow_null=True, help_text="Gain or loss after commission, USDT, or null."
    )
    created_at = serializers.DateTimeField(help_text="When it happened.")


class PriceSerializer(serializers.Serializer[Any]):
    """The last price of a symbol."""

    symbol = serializers.CharField(help_text="For example BTCUSDT.")
    price = PlainDecimal(allow_null=True, help_text="USDT a unit; null before the first one.")
    at = serializers.DateTimeField(
        allow_null=True, help_text="The exchange's time of the price; null before the first."
    )
    is_fresh = serializers.BooleanField(help_text="False: too old to open, amend or close a deal at.")


class PricesSerializer(serializers.Serializer[Any]):
    """The last price of every symbol."""

    results = PriceSerializer(many=True, help_text="One for each symbol that can be traded.")


class TokenSerializer(serializers.Serializer[Any]):
    """A log-in that does not end by itself."""

    token = serializers.CharField(help_text="Send it as `Authorization: Token …`.")


class SessionSerializer(serializers.Serializer[Any]):
    """A log-in by cookie."""

    csrf_token = serializers.CharField(
        help_text="Send it as `X-CSRFToken: …` with every request that changes something."
    )
