"""Paths of the operators. Each also answers with a trailing slash."""

from __future__ import annotations

from deals.api.paths import both_spellings
from monitoring.api import chart_views as charts
from monitoring.api import operator_views as views
from monitoring.api.control_urls import control_urls
from monitoring.api.stream_view import Stream

urlpatterns = [
    *control_urls,
    *both_spellings("health", views.Health.as_view(), "workers-health"),
    *both_spellings("stats", views.Stats.as_view(), "workers-stats"),
    *both_spellings("queues", views.Queues.as_view(), "workers-queues"),
    *both_spellings("prices", views.Prices.as_view(), "workers-prices"),
    *both_spellings("prices/history", charts.PriceHistory.as_view(), "workers-price-history"),
    *both_spellings("prices/<str:symbol>", charts.SymbolChart.as_view(), "workers-symbol-chart"),
    *both_spellings("closures", views.Closures.as_view(), "workers-closures"),
    *both_spellings("history", views.History.as_view(), "workers-history"),
    *both_spellings("jobs/<str:dealId>", views.Job.as_view(), "workers-job"),
    *both_spellings("jobs/<str:dealId>/chart", charts.DealChart.as_view(), "workers-deal-chart"),
    *both_spellings("monitor/stream", Stream.as_view(), "workers-stream"),
    *both_spellings("metrics/export", views.Export.as_view(), "workers-export"),
]
