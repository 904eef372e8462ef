"""What an operator does to a single deal: out of monitoring, and back. Every call is recorded, refused ones too."""

from __future__ import annotations

import structlog

from deals.errors import DealError, NotFound
from deals.models import Deal
from monitoring.jobs import LARGEST_ID
from workers import audit
from workers.audit import Actor
from workers.manager import worker_manager

log = structlog.get_logger(__name__)


def remove_from_monitoring(deal_id: int, *, operator: Actor, reason: str) -> None:
    """Take a deal out of monitoring for good and tell its user; doing it twice changes nothing. Raises DealError."""
    deal = _find(deal_id)
    try:
        worker_manager.remove_order_from_monitoring(deal.pk)
    except DealError as refusal:
        _record(operator, "remove_from_monitoring", deal, reason, refusal.code)
        raise
    _record(operator, "remove_from_monitoring", deal, reason, "done")


def put_back(deal_id: int, *, operator: Actor, reason: str) -> None:
    """Watch a deal again, from the current price on; one that is watched stays as it is. Raises DealError."""
    deal = _find(deal_id)
    try:
        worker_manager.add_order_to_monitoring(deal)
    except DealError as refusal:
        _record(operator, "put_back_into_monitoring", deal, reason, refusal.code)
        raise
    _record(operator, "put_back_into_monitoring", deal, reason, "done")


def _find(deal_id: int) -> Deal:
    deal = Deal.objects.filter(pk=deal_id).first() if deal_id <= LARGEST_ID else None
    if deal is None:
        raise NotFound
    return deal


def _record(operator: Actor, action: str, deal: Deal, reason: str, outcome: str) -> None:
    """The one place where an intervention is written down."""
    audit.record(operator, action, target=f"deal {deal.pk}", reason=reason, outcome=outcome)
    log.warning("operator.intervention", action=action, deal_id=deal.pk, user_id=operator.user_id, outcome=outcome)
