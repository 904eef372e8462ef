"""Whether every deal is protected, told from PostgreSQL, Redis and the broker at the time of asking, within 2 s."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from monitoring import probes, verdicts
from monitoring.probes import Facts, Question
from monitoring.shared import Shared
from monitoring.verdicts import Check, Extra, Rules
from workers import queues
from workers.clock import to_datetime

log = structlog.get_logger(__name__)

LOOK_AGAIN_S: Final = 0.05

_extra: dict[str, tuple[str, Extra]] = {}


@dataclass(frozen=True)
class Component:
    """One of the four, healthy when all its checks are."""

    name: str
    checks: list[Check]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong with it."""
        return all(check.is_healthy for check in self.checks)

    @property
    def reason(self) -> str | None:
        """What is wrong with it, in sentences."""
        reasons = [check.reason or check.name for check in self.checks if not check.is_healthy]
        return " ".join(dict.fromkeys(reasons)) or None


@dataclass(frozen=True)
class Report:
    """Everything that was checked, at one moment.

    `uptime_ms` counts from when the system state last became `running`, whatever processes came and went; 0 while it
    is another one, None while PostgreSQL cannot say.
    """

    checked_at: datetime
    state: str | None
    state_since: datetime | None
    state_reason: str | None
    uptime_ms: int | None
    components: list[Component]
    facts: Facts

    @property
    def is_healthy(self) -> bool:
        """Whether all components are."""
        return all(component.is_healthy for component in self.components)

    @property
    def status(self) -> str:
        """`healthy`, `unhealthy`, or `degraded`: not healthy either, but the prices process closes deals meanwhile."""
        if self.is_healthy:
            return "healthy"
        bad = {check.name for component in self.components for check in component.checks if not check.is_healthy}
        return "degraded" if "degraded" in bad and self.facts.database is not None else "unhealthy"


def register_check(component: str, name: str, *, ask: Question, judge: Extra) -> None:
    """Add a check to a component: `ask` gets a cursor (PostgreSQL, read-only) and shares its second; `judge` makes
    the check of its answer. Registering a name again replaces it.
    """
    probes.ask_database_too(name, ask)
    _extra[name] = (component, judge)


def report() -> Report:
    """Look at everything, now. Never raises because a server is away."""
    facts = probes.ask_all()
    if verdicts.missing_from_book(facts):
        # Both were not read at the same instant. A deal that is really missing is missing in the next reading too.
        time.sleep(LOOK_AGAIN_S)
        again = probes.ask_all()
        facts = min(facts, again, key=_shortage)
    components = _components(facts)
    system = None if facts.database is None else facts.database.system
    return Report(
        checked_at=to_datetime(facts.now_ms),
        state=system and system.state,
        state_since=system and system.state_since,
        state_reason=system and system.state_reason,
        uptime_ms=system and (round((system.now - system.state_since).total_seconds() * 1000) if _runs(system) else 0),
        components=_with_since(components, facts),
        facts=facts,
    )


def _runs(system: probes.SystemFigures) -> bool:
    return system.state == "running" and not settings.STATIC_ONLY


def _shortage(facts: Facts) -> float:
    missing = verdicts.missing_from_book(facts)
    return float("inf") if missing is None else missing


def _components(facts: Facts) -> list[Component]:
    rules = Rules(settings.PRICE_STALE_AFTER_S, settings.STATIC_ONLY, tuple(queues.names()))
    checks = verdicts.judge(facts, rules)
    for name, (component, judge) in _extra.items():
        if facts.database is None:
            checks[component].append(verdicts.at_most(name, None, 0, "", verdicts.DATABASE_AWAY))
        else:
            checks[component].append(judge(facts.database.extra[name]))
    return [Component(name, checks[name]) for name in verdicts.COMPONENTS]


def _with_since(components: list[Component], facts: Facts) -> list[Component]:
    """Give every bad check the moment since which it is bad: its own, or when it was first found bad, or now."""
    known = {} if facts.redis is None else facts.redis.bad_since_ms
    bad: dict[str, int] = {}
    good: list[str] = []
    dated = []
    for component in components:
        checks = []
        for check in component.checks:
            field = f"{component.name}.{check.name}"
            if check.is_healthy:
                good += [field] if field in known else []
            elif check.since is None:
                bad[field] = known.get(field, facts.now_ms)
                check = replace(check, since=to_datetime(bad[field]))  # noqa: PLW2901 - the same check, dated
            checks.append(check)
        dated.append(Component(component.name, checks))
    news = {field: at_ms for field, at_ms in bad.items() if field not in known}
    if facts.redis is not None and (news or good):
        try:
            probes.remember_since(news, good)
        except RedisError as error:
            log.warning("health.since_not_kept", error=str(error))
    return dated


_for_everyone = Shared(report, young_s=0.25)
"""The public address asks for no login and knows no throttle: many who ask at once must not make the probes late, which
would be taken for servers that are away.
"""


def workers_health() -> dict[str, Any]:
    """The workers' part of the public `GET /health`: small, and without a word about addresses.

    Who asks at the same moment gets the same look, which began a quarter of a second before at the earliest.
    """
    current = _for_everyone.ask()
    return {
        "isHealthy": current.is_healthy,
        "status": current.status,
        "uptime": current.uptime_ms,
        "components": {component.name: _small(component) for component in current.components},
    }


def _small(component: Component) -> dict[str, Any]:
    return {"isHealthy": component.is_healthy} | ({"reason": component.reason} if component.reason else {})
