"""What the API answers while PostgreSQL refuses: an error of the one shape, and nothing is changed."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction
from factories import client_of, everything, make_account, make_deal

from deals import locks

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_deal_that_stays_locked_is_a_503_after_the_lock_timeout() -> None:
    account = make_account()
    deal = make_deal(account)
    api = client_of(account)
    before = everything()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                locks.lock_deal(deal.pk)
                locked.set()
                done.wait(30)
        finally:
            connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(10)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
        answer = api.patch(f"/api/deals/{deal.pk}", {"takeProfit": "110"}, format="json")
    finally:
        done.set()
        holder.join(10)
        connection.close()

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "database_unavailable"
    assert answer["Retry-After"] == "1"
    assert everything() == before
