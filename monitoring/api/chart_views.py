"""Charts of prices for operators: sparklines of all symbols, one symbol with its triggers and closures, one deal."""

from __future__ import annotations

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from deals.api.schema import refusals
from monitoring import charts
from monitoring.api import chart_serializers as wire
from monitoring.api.operator_views import DEAL_ID, LOOKING, OperatorView, deal_number

DEFAULT_MINUTES = 60


class PriceHistory(OperatorView):
    """Every symbol's last quarter of an hour."""

    @extend_schema(summary="Read the sparklines", responses={200: wire.PriceHistorySerializer, **LOOKING})
    def get(self, _request: Request) -> Response:
        """One closing price for every 15 s of the last 15 minutes, by symbol."""
        return Response(wire.PriceHistorySerializer(charts.history()).data)


class SymbolChart(OperatorView):
    """One symbol."""

    known_parameters = ("minutes",)

    @extend_schema(
        operation_id="api_admin_workers_prices_symbol_retrieve",  # `prices` itself has the one it would get
        summary="Read a symbol's chart",
        parameters=[
            OpenApiParameter(
                "symbol",
                {"type": "string", "enum": list(settings.SYMBOLS)},
                OpenApiParameter.PATH,
                description="One of the symbols of `prices`.",
            ),
            OpenApiParameter(
                "minutes",
                {"type": "integer", "enum": list(charts.STEPS_MS), "default": DEFAULT_MINUTES},
                description="How many minutes the chart reaches back.",
            ),
        ],
        responses={200: wire.SymbolChartSerializer, **refusals(400, 401, 403, 404, 429, 503)},
    )
    def get(self, request: Request, symbol: str) -> Response:
        """Candles, how many triggers lie where near the price, and the latest closures."""
        minutes = _minutes(request.query_params.get("minutes", str(DEFAULT_MINUTES)))
        return Response(wire.SymbolChartSerializer(charts.symbol_chart(symbol, minutes)).data)


class DealChart(OperatorView):
    """One deal."""

    @extend_schema(
        summary="Read a deal's chart",
        parameters=[DEAL_ID],
        responses={200: wire.DealChartSerializer, **refusals(400, 401, 403, 404, 429, 503)},
    )
    def get(self, _request: Request, **path: str) -> Response:
        """The price over the deal's life, its opening, levels and closing."""
        return Response(wire.DealChartSerializer(charts.deal_chart(deal_number(path))).data)


def _minutes(text: str) -> int:
    """Raises ValidationError `invalid_minutes`."""
    known = {str(minutes): minutes for minutes in charts.STEPS_MS}
    if text not in known:
        raise ValidationError({"minutes": f"It must be one of {', '.join(known)}."})
    return known[text]
