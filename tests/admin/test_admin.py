"""The admin site: what operators see, and what they can do to deals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from factories import close_deal, everything, make_account, make_deal, make_user, set_price

from deals import services
from deals.models import Account, Deal, LedgerEntry, Monitoring, Notification, Settlement
from deals.settlement import Due, settle
from workers.models import DeadLetter, SweepPosition

DEALS = "/admin/deals/deal/"
READ_ONLY = [Account, Deal, LedgerEntry, Notification, DeadLetter, SweepPosition]


def path_of(model: Any, *parts: object) -> str:
    return "/".join(["/admin", model._meta.app_label, model._meta.model_name, *map(str, parts)]) + "/"


def run(client: Client, action: str, *deals: Deal, **fields: str) -> list[str]:
    """Run an action on deals; the messages that it leaves."""
    answer = client.post(DEALS, {"action": action, "_selected_action": [deal.pk for deal in deals], **fields})
    return [str(message) for message in get_messages(answer.wsgi_request)]


def one_row_of_each() -> dict[Any, Any]:
    user = make_user("anna")
    account = make_account(user=user)
    deal = close_deal(make_deal(account, price="0.00001230", take_profit="0.00002"), price="0.0000125")
    now = timezone.now()
    letter = DeadLetter.objects.create(
        deal=deal, version=1, task="workers.close_deals", price=deal.close_price, fired="1|BTCUSDT", error_class="E",
        error="broken", attempts=3, first_failed_at=now, last_failed_at=now,
    )  # fmt: skip
    position = SweepPosition.objects.create(symbol="BTCUSDT", seq=7)
    entry, note = LedgerEntry.objects.latest("pk"), Notification.objects.latest("pk")
    return {
        Account: account,
        Deal: deal,
        LedgerEntry: entry,
        Notification: note,
        DeadLetter: letter,
        SweepPosition: position,
    }


# --- what is shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", READ_ONLY)
def test_every_list_and_page_opens_and_offers_nothing_to_change(operator: Client, model: Any) -> None:
    row = one_row_of_each()[model]

    listed = operator.get(path_of(model))
    page = operator.get(path_of(model, row.pk, "change"))

    assert (listed.status_code, page.status_code) == (200, 200)
    assert str(row.pk) in listed.content.decode()
    assert 'name="_save"' not in page.content.decode()
    assert operator.get(path_of(model, "add")).status_code == 403
    before = everything()
    assert operator.post(path_of(model, row.pk, "change"), {"balance": "1"}).status_code == 403
    assert operator.post(path_of(model, row.pk, "delete"), {"post": "yes"}).status_code == 403
    assert everything() == before


def test_numbers_are_plain_and_times_name_their_zone(operator: Client) -> None:
    deal = one_row_of_each()[Deal]

    for path in (DEALS, path_of(Deal, deal.pk, "change")):
        text = operator.get(path).content.decode()
        assert ">0.0000123<" in text or "0.0000123\n" in text
        assert "E-" not in text
        assert f"{deal.opened_at:%Y-%m-%d %H:%M:%S}" in text
        assert "UTC" in text


@pytest.mark.parametrize("model", [LedgerEntry, Notification, DeadLetter])
def test_what_belongs_to_a_deal_leads_to_it(operator: Client, model: Any) -> None:
    row = one_row_of_each()[model]
    link = f'href="{path_of(Deal, row.deal_id, "change")}"'

    assert link in operator.get(path_of(model)).content.decode()
    assert link in operator.get(path_of(model, row.pk, "change")).content.decode()


def test_a_deals_page_tells_its_history(operator: Client) -> None:
    deal = close_deal(make_deal(take_profit="110"), price="105")

    text = operator.get(path_of(Deal, deal.pk, "change")).content.decode()

    assert "Opened" in text
    assert "Closed" in text


def test_a_deals_page_says_when_it_fired(operator: Client) -> None:
    deal = make_deal(take_profit="110")
    closed = Due(deal.pk, 1, Decimal(111), "tick", 7, fired_at=datetime(2026, 1, 8, 12, 0, 3, tzinfo=UTC))
    assert settle([closed]).closed

    answer = operator.get(path_of(Deal, deal.pk, "change"))

    assert [event.kind for event in answer.context["page"].job.history][-2:] == ["fired", "closed"]
    assert answer.content.decode().count("2026-01-08 12:00:03.000 UTC") == 2, "in the history and among the facts"


def test_a_notification_says_when_it_was_published(operator: Client) -> None:
    deal = make_deal(take_profit="110")
    settle([Due(deal.pk, 1, Decimal(111), "tick")])
    told = Notification.objects.get()
    Settlement.objects.update(told_at=datetime(2026, 1, 8, 12, 0, 3, 250_000, tzinfo=UTC))

    assert "2026-01-08 12:00:03 UTC" in operator.get(path_of(Notification)).content.decode()
    assert "2026-01-08 12:00:03.250 UTC" in operator.get(path_of(Notification, told.pk, "change")).content.decode()


@pytest.mark.parametrize("model", READ_ONLY)
def test_an_empty_list_opens(operator: Client, model: Any) -> None:
    assert operator.get(path_of(model)).status_code == 200


def test_deals_are_filtered(operator: Client) -> None:
    closed = close_deal(make_deal())
    armed = make_deal(symbol="ETHUSDT", direction="down", take_profit="90")

    def ids(query: str) -> list[int]:
        return [deal.pk for deal in operator.get(f"{DEALS}?{query}").context["cl"].result_list]

    assert ids("status__exact=open") == [armed.pk]
    assert ids("symbol=BTCUSDT") == [closed.pk]
    assert ids("direction__exact=down") == [armed.pk]
    assert ids("close_reason__exact=manual") == [closed.pk]
    assert ids("monitoring__exact=pending") == [armed.pk]


def test_deals_are_found_by_user_name_and_by_number(operator: Client) -> None:
    hers = make_deal(make_account(user=make_user("anna")))
    his = make_deal(make_account(user=make_user("boris")))

    def ids(words: str) -> list[int]:
        return [deal.pk for deal in operator.get(DEALS, {"q": words}).context["cl"].result_list]

    assert ids("ann") == [hers.pk]
    assert ids(str(his.pk)) == [his.pk]
    assert ids("nobody") == []


@pytest.mark.parametrize("model", [Deal, LedgerEntry, Notification, Account])
def test_lists_ask_the_database_as_often_for_many_rows_as_for_few(
    operator: Client, model: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(8):
        close_deal(make_deal())

    with django_assert_max_num_queries(8):
        assert operator.get(path_of(model)).status_code == 200


# --- what can be done ------------------------------------------------------------------------------------------


def test_closing_asks_first_and_then_pays_once(operator: Client) -> None:
    deals = [make_deal(take_profit="120"), make_deal()]
    set_price(price="110")
    before = everything()

    asked = operator.post(DEALS, {"action": "close_now", "_selected_action": [deal.pk for deal in deals]})

    assert "cannot be undone" in asked.content.decode()
    assert everything() == before
    assert run(operator, "close_now", *deals, confirmed="yes") == ["2 deals were closed."]
    for deal in deals:
        deal.refresh_from_db()
        assert (deal.status, deal.close_reason, str(deal.close_price.normalize())) == ("closed", "manual", "1.1E+2")
        assert deal.ledger.filter(kind="close").count() == 1
        assert LogEntry.objects.filter(object_id=str(deal.pk)).count() == 1


def test_a_deal_that_cannot_be_closed_is_told_and_does_not_stop_the_others(operator: Client) -> None:
    closed = close_deal(make_deal())
    ether = make_deal(symbol="ETHUSDT")
    bitcoin = make_deal()
    set_price("ETHUSDT", age_s=60)

    told = run(operator, "close_now", closed, ether, bitcoin, confirmed="yes")

    assert told[0] == "1 deal was closed."
    assert told[1] == f"Deal {closed.pk} was not closed: The deal is closed already."
    assert told[2].startswith(f"Deal {ether.pk} was not closed: The last price of ETHUSDT is 60 s old")
    ether.refresh_from_db()
    assert ether.status == "open"
    assert closed.ledger.filter(kind="close").count() == 1


def test_disarming_ends_monitoring_and_tells_the_user(operator: Client) -> None:
    deal = make_deal(take_profit="110")
    bare = make_deal()

    told = run(operator, "disarm", deal, bare)

    assert told[0] == "1 deal was disarmed."
    assert told[1].startswith(f"Deal {bare.pk} was not disarmed: The deal has neither")
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.REMOVED
    assert Notification.objects.filter(deal=deal, kind="monitoring_removed").count() == 1


def test_arming_watches_the_levels_again(operator: Client) -> None:
    deal = make_deal(take_profit="110")
    services.remove_from_monitoring(deal_id=deal.pk)

    assert run(operator, "arm", deal) == ["1 deal was armed."]
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.PENDING


def test_too_many_deals_at_a_time_are_refused(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deals.admin.ACTION_LIMIT", 1)
    deals = [make_deal(take_profit="110") for _ in range(2)]
    before = everything()

    assert run(operator, "disarm", *deals) == ["Choose at most 1 deals at a time."]
    assert everything() == before


# --- who may do it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["close_now", "arm", "disarm"])
def test_the_actions_need_the_permission_to_change_deals(staff: Callable[..., Client], action: str) -> None:
    deal = make_deal(take_profit="110")
    before = everything()
    viewer = staff("view_deal")

    assert viewer.get(DEALS).status_code == 200
    run(viewer, action, deal, confirmed="yes")

    assert everything() == before


def test_the_permission_to_change_deals_is_enough(staff: Callable[..., Client]) -> None:
    deal = make_deal(take_profit="110")

    assert run(staff("view_deal", "change_deal"), "disarm", deal) == ["1 deal was disarmed."]


def test_staff_without_a_permission_and_others_see_nothing(staff: Callable[..., Client]) -> None:
    trader = Client()
    trader.force_login(make_user())

    assert staff().get(DEALS).status_code == 403
    assert trader.get(DEALS).status_code == 302


# --- the rest of the site --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "auth/user/",
        "auth/user/add/",
        "auth/group/",
        "django_celery_beat/periodictask/",
        "django_celery_beat/periodictask/add/",
        "django_celery_beat/intervalschedule/",
        "django_celery_beat/crontabschedule/",
        "django_celery_beat/crontabschedule/add/",
        "django_celery_beat/solarschedule/",
        "django_celery_beat/clockedschedule/",
    ],
)
def test_every_other_page_opens(operator: Client, path: str) -> None:
    assert operator.get(f"/admin/{path}").status_code == 200


def test_the_schedule_can_be_changed(operator: Client) -> None:
    sweep = PeriodicTask.objects.get(name="workers.sweep")
    page = f"/admin/django_celery_beat/periodictask/{sweep.pk}/change/"
    form = operator.get(page).context["adminform"].form
    fields = {name: value for name, value in form.initial.items() if value is not None and name != "enabled"}

    answer = operator.post(page, fields | {"regtask": "", "start_time_0": "", "start_time_1": ""})

    assert answer.status_code == 302, answer.context["errors"]
    sweep.refresh_from_db()
    assert (sweep.enabled, sweep.task, sweep.queue) == (False, "workers.sweep", "sweep")


def test_api_tokens_are_not_shown(operator: Client) -> None:
    assert operator.get("/admin/authtoken/tokenproxy/").status_code == 404
