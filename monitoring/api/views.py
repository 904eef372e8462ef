"""What load balancers and watchers ask without a login."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from monitoring.health import workers_health


@require_safe
def livez(_request: HttpRequest) -> JsonResponse:
    """The process runs; asks nobody else."""
    return JsonResponse({"status": "ok"})


@require_safe
def health(_request: HttpRequest) -> JsonResponse:
    """200 while every deal is protected, else 503 with the reason by component."""
    workers = workers_health()
    status = "ok" if workers["isHealthy"] else workers["status"]
    return JsonResponse({"status": status, "workers": workers}, status=200 if workers["isHealthy"] else 503)
