"""What a trader himself has written into the domain, and how it goes. Ledger, deals and history stay."""

from __future__ import annotations

from django.db.models import Q
from django.utils import timezone

from deals.errors import Conflict
from deals.models import Account, Deal, Status


def erase(user_id: int) -> int:
    """Forget the `client_id` of the user's deals and shut the account; returns of how many deals.

    Belongs into the caller's transaction. Locks the deals concerned by id, then the account: whoever waits for it to
    open a deal is refused afterwards. Raises Conflict `open_deals`.
    """
    deals = Deal.objects.filter(account__user_id=user_id).order_by("pk")
    named = deals.filter(Q(client_id__isnull=False) | Q(status=Status.OPEN))
    list(named.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
    list(Account.objects.select_for_update(no_key=True).filter(user_id=user_id).values_list("pk", flat=True))
    still_open = deals.filter(status=Status.OPEN).count()
    if still_open:
        raise Conflict("open_deals", f"User {user_id} has {still_open} open deals.")
    Account.objects.filter(user_id=user_id, erased_at=None).update(erased_at=timezone.now())
    return deals.filter(client_id__isnull=False).order_by().update(client_id=None)
