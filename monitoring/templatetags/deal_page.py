"""`{% deal_page deal %}`: what the operators see first on a deal's page of the admin site."""

from __future__ import annotations

from typing import Any

from django import template

from deals.models import Deal

register = template.Library()


@register.inclusion_tag("monitoring/deal_page.html", name="deal_page")
def show(deal: Deal) -> dict[str, Any]:
    """Figures, chart, explanation and timeline."""
    from monitoring.deal_page import deal_page  # Unfold reads all libraries while its own classes are being made

    return {"page": deal_page(deal.pk)}
