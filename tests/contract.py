"""The OpenAPI contract, examined: a system in which every call can succeed, and cases made from the document.

Schemathesis makes the cases and judges the answers. Its own pytest fixtures do not know pytest 9.2, so that its builder
of tests is called directly, once an operation.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from django.contrib.auth.models import Group, Permission
from django.core.handlers.wsgi import WSGIHandler
from django.db import DataError
from factories import PASSWORD, make_account, make_deal, make_user, set_price
from rest_framework.authtoken.models import Token
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.hypothesis.builder import HypothesisTestConfig, HypothesisTestMode, create_test
from schemathesis.openapi.checks import RejectedPositiveData, UnsupportedMethodResponse

from deals import state
from deals.models import Account, Deal, Monitoring, SystemState
from deals.queries import current_state
from deals.settlement import Failure
from workers import book, control, dead_letters, groups, system
from workers.audit import SYSTEM
from workers.clock import WALL_CLOCK
from workers.models import DeadLetter

OPERATOR: Final = "operator"
OTHERS: Final = ("anonymous", "trader", "support")
PRICE: Final = "100000"
FRESH_FOR_S: Final = 4.0
SEED: Final = 1
LOGINS: Final = ("POST /api/session", "POST /api/token")
RESTART: Final = "POST /api/admin/workers/restart"
RESTARTS: Final = 2
"""A restart takes seconds. That many run; the others meet a halted system, which refuses them."""
CONFIG: Final[dict[str, Any]] = {
    "generation": {
        "deterministic": True,
        "max-examples": 4,
        "database": "none",
        "no-shrink": True,
        "with-security-parameters": False,  # who asks is said by the test
    },
    "phases": {"coverage": {"unexpected-methods": ["PUT", "TRACE"]}},
    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 503]}},
}
CANNOT_BE_SAID: Final = frozenset(
    {
        "invalid_cursor",  # it comes from `next` or `previous` of an answer
        *("invalid_amount", "invalid_level"),  # a JSON number with an exponent; more than 15 significant digits
        *("level_on_wrong_side", "levels_equal", "insufficient_balance"),  # they depend on the price and the account
    }
)
"""Codes of 400 for requests that are right by the document: JSON Schema has no words for what they lack."""


@dataclass
class Report:
    """What was seen: answers by operation and status, and what is wrong, each kind once."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)

    def statuses(self, label: str) -> set[int]:
        """The statuses that an operation was seen to answer."""
        return {status for name, status in self.answers if name == label}

    def problems_of(self, label: str) -> list[str]:
        """What is wrong with an operation, in words, with the request that showed it."""
        return [text for (name, _kind), text in self.problems.items() if name == label]


class World:
    """Four people, and what each of them may ask for. Whatever a request has changed is put right before the next."""

    def __init__(self) -> None:
        groups.create_groups(Group, Permission)  # clearing the database after a transactional test takes them away
        self._accounts: dict[str, Account] = {}
        self._headers: dict[str, dict[str, str]] = {"anonymous": {}}
        for role, group in (("trader", None), ("support", "support"), ("operator", "operators")):
            user = make_user(role, password=PASSWORD, is_staff=group is not None)
            user.groups.set(Group.objects.filter(name=group))
            self._accounts[role] = make_account("1000000000", user=user)
            self._headers[role] = {"Authorization": f"Token {Token.objects.create(user=user).key}"}
        self._deals: dict[str, Deal] = {}
        self._priced_at = 0.0
        self._letter: DeadLetter | None = None
        system.refresh_state()
        self._operation = control.resume("test", SYSTEM).wait(5)
        self.put_right()

    def headers(self, role: str) -> dict[str, str]:
        """The log-in of someone."""
        return self._headers[role]

    def keep_fresh(self) -> None:
        """Prices that are not stale."""
        if time.monotonic() - self._priced_at > FRESH_FOR_S:
            self._priced_at = time.monotonic()
            set_price("BTCUSDT", PRICE)
            set_price("ETHUSDT", PRICE)

    def put_right(self) -> None:
        """Running, at fresh prices, with an armed deal for everyone and a dead letter."""
        self.keep_fresh()
        if current_state().state != SystemState.State.RUNNING:
            system.resume("test")
        for role, account in self._accounts.items():
            deal = self._deals.get(role)
            if deal is None or not Deal.objects.filter(pk=deal.pk, monitoring=Monitoring.ARMED).exists():
                self._deals[role] = make_deal(account, price=PRICE, take_profit="120000")
        if self._letter is None or not DeadLetter.objects.filter(pk=self._letter.pk, state="failed").exists():
            self._letter = self._bury()

    def _bury(self) -> DeadLetter:
        """A deal that fired and could not be settled."""
        deal = make_deal(self._accounts["trader"], symbol="ETHUSDT", price=PRICE, take_profit="120000")
        [fired] = [entry for entry in set_price("ETHUSDT", "130000") if entry.deal_id == deal.pk]
        set_price("ETHUSDT", PRICE)
        failure = Failure(fired.due(), DataError("too large"))
        assert dead_letters.bury(fired, failure, attempts=3, first_failed_ms=WALL_CLOCK.now_ms(), task="test")
        book.clear_fired([(fired.deal_id, fired.version)])
        return DeadLetter.objects.get(deal_id=deal.pk)

    def prepare(self, case: Any, role: str, seen: Report) -> None:
        """Make the right parts of a case speak of what exists. What it is about stays as it was made."""
        self.keep_fresh()
        label = case.operation.label
        if case.path_parameters and _is_right(case, ParameterLocation.PATH):
            case.path_parameters = dict.fromkeys(case.path_parameters, self._number_in(case.path, role))
        if label in LOGINS and case.method == "POST" and (label, 200) not in seen.answers:
            case.body = {"username": "trader", "password": PASSWORD}
        if label == RESTART and seen.answers[label, 200] + seen.answers[label, 202] >= RESTARTS:
            state.change(SystemState.State.HALTED, "test")

    def _number_in(self, path: str, role: str) -> int:
        """The number of something that exists and that this path is about."""
        assert self._letter is not None
        if "/dead-letters/" in path:
            return self._letter.pk
        if "/operations/" in path:
            return self._operation.pk
        return self._deals[role if role in self._deals else "trader"].pk


class Examiner:
    """Sends every case of every operation as each of the four, and judges every answer by the document."""

    def __init__(self, world: World) -> None:
        load_all_checks()
        config = schemathesis.Config.from_dict(CONFIG)
        json = {"Accept": "application/vnd.oai.openapi+json"}
        self.schema = schemathesis.openapi.from_wsgi("/api/schema", WSGIHandler(), config=config, headers=json)
        self.world = world
        self.report = Report()
        self._turn = 0

    def operations(self) -> list[Any]:
        """Every operation of the document; a definition that is wrong raises."""
        return [result.ok() for result in self.schema.get_all_operations()]

    def examine(self, operation: Any) -> None:
        """Send all its cases; what is wrong goes into the report."""
        config = self.schema.config
        modes = [HypothesisTestMode.EXAMPLES, HypothesisTestMode.COVERAGE, HypothesisTestMode.FUZZING]
        settings = config.get_hypothesis_settings(operation=operation, phase="fuzzing")
        test = create_test(
            operation=operation,
            test_func=self._send_as_each,
            config=HypothesisTestConfig(project=config, modes=modes, settings=settings, seed=SEED),
        )
        test()

    def _send_as_each(self, case: Any) -> None:
        """As the operator, who may do everything, and as the others by turns."""
        self._turn += 1
        for role in (OTHERS[self._turn % len(OTHERS)], OPERATOR):
            self._send(case, role)

    def _send(self, case: Any, role: str) -> None:
        self.world.prepare(case, role, self.report)
        headers = self.world.headers(role)
        response = case.call(headers=headers)
        self.report.answers[case.operation.label, response.status_code] += 1
        try:
            case.validate_response(response, headers=headers)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._note(failure, case, role, response)
        if case.method != "GET" and response.status_code < 300:
            self.world.put_right()

    def _note(self, failure: Exception, case: Any, role: str, response: Any) -> None:
        if isinstance(failure, RejectedPositiveData) and response.json()["error"]["code"] in CANNOT_BE_SAID:
            return
        if isinstance(failure, UnsupportedMethodResponse) and response.status_code == 401:
            return  # a path asks who it is before it looks at the method
        text = f"{failure}\nas {role}: {case.as_curl_command()}\nanswer {response.status_code}: {response.text[:500]}"
        self.report.problems.setdefault((case.operation.label, type(failure).__name__), text)


def _is_right(case: Any, part: ParameterLocation) -> bool:
    """Whether this part of the case is right by the document, and not what the case is about."""
    at_issue = getattr(case.meta.phase.data, "parameter_location", None)
    generated = case.meta.components.get(part)
    return at_issue != part and (generated is None or generated.mode.is_positive)


def successes(operation: Any) -> set[int]:
    """The statuses of success that the document promises, but 202, which depends on how long something takes."""
    return {int(status) for status in operation.definition.raw["responses"] if status.startswith("2")} - {202}
