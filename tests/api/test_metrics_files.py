"""The dashboard, the alert rules and the page on metrics speak of what a scrape really exports, and of nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql
import pytest
import yaml
from django.test import Client
from factories import make_user, set_price
from prometheus_client.parser import text_string_to_metric_families as parse
from servers import PROJECT

from workers import sweep
from workers.heartbeats import Sign
from workers.sweep import SweepReport

pytestmark = pytest.mark.django_db(transaction=True)

DOCS = PROJECT / "docs"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana" / "cryptocraze.json").read_text())
SHOWN_LABELS = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


class Exported(NamedTuple):
    """What a scrape exports: families by name with type and labels, series by name with the values of each label."""

    families: dict[str, tuple[str, frozenset[str]]]
    series: dict[str, dict[str, set[str]]]


@pytest.fixture
def exported(client: Client) -> Exported:
    """A scrape of a system in which every metric has a sample."""
    set_price("BTCUSDT", "100")
    sweep.remember(SweepReport())
    for role in ("prices", "worker", "beat"):
        Sign(role, "x").write({"queues": ["closures", "sweep", "default"]})
    client.force_login(make_user(is_staff=True))
    families: dict[str, tuple[str, frozenset[str]]] = {}
    series: dict[str, dict[str, set[str]]] = {}
    for family in parse(client.get("/metrics").content.decode()):
        assert family.samples, f"{family.name} has no sample"
        assert family.documentation
        name = f"{family.name}_total" if family.type == "counter" else family.name
        families[name] = (family.type, frozenset(family.samples[0].labels) - {"le"})
        for sample in family.samples:
            values = series.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return Exported(families, series)


def check(expression: str, shown: str, exported: Exported) -> None:
    """Every series is exported, with every label and label value that is asked for or shown."""
    read = promql.read(expression)
    assert read.series, expression
    assert read.series <= exported.series.keys(), expression
    for matcher in read.matchers:
        assert matcher.value in exported.series[matcher.series].get(matcher.label, set()), matcher
    labels = set().union(*(exported.series[name].keys() for name in read.series))
    wanted = read.grouped_by | (set(SHOWN_LABELS.findall(shown)) - {"value"})
    assert wanted <= labels, (expression, shown)


def targets() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from panel.get("targets", [])


# --- names -------------------------------------------------------------------------------------------------------


def test_names_follow_prometheus_guidelines(exported: Exported) -> None:
    for name, (kind, labels) in exported.families.items():
        assert re.fullmatch(r"cryptocraze(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|minutes|hours|percent)(_|$)", name), name
        assert all(re.fullmatch(r"[a-z]+", label) for label in labels), name
        if kind in {"histogram", "summary"} or "_age_" in name:
            assert name.endswith("_seconds"), name


def test_the_page_lists_every_metric_with_its_type_and_labels_and_no_other(exported: Exported) -> None:
    page = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(cryptocraze_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", page, re.MULTILINE)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == exported.families
    assert len(rows) == len(documented)


# --- alerts ------------------------------------------------------------------------------------------------------


def test_every_alert_speaks_of_exported_series(exported: Exported) -> None:
    for rule in ALERTS:
        check(rule["expr"], rule["annotations"]["summary"], exported)


def test_a_wrong_name_or_label_would_be_noticed(exported: Exported) -> None:
    for expression, shown in (
        ("cryptocraze_unprotected > 0", ""),
        ("sumby (reason) (cryptocraze_unprotected_deals)", ""),
        ('cryptocraze_up{component="postgres"} == 0', ""),
        ('cryptocraze_up{server="redis"} == 0', ""),
        ("sum by (symbol) (cryptocraze_unprotected_deals)", ""),
        ("cryptocraze_unprotected_deals", "{{ $labels.symbol }}"),
    ):
        with pytest.raises(AssertionError):
            check(expression, shown, exported)


def test_every_check_of_health_has_an_alert_and_every_alert_leads_to_the_page(exported: Exported) -> None:
    checks = exported.series["cryptocraze_check_healthy"]["check"]
    assert {rule["labels"]["check"] for rule in ALERTS if "check" in rule["labels"]} == checks
    page = (DOCS / "operations.md").read_text()
    found = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    sections = {title.lower(): text for title, text in found}
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/operations.md"
        named = f"`{rule['labels']['check']}`" if "check" in rule["labels"] else f"| {rule['alert']} |"
        assert named in sections[anchor], rule["alert"]
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)


def test_what_may_heal_by_itself_waits_before_it_rings() -> None:
    at_once = {rule["alert"] for rule in ALERTS if "for" not in rule}
    assert at_once == {"CryptocrazeHalted", "CryptocrazeNewDeadLetter"}
    assert all(re.fullmatch(r"\d+[sm]", rule["for"]) for rule in ALERTS if "for" in rule)


# --- dashboard ---------------------------------------------------------------------------------------------------


def test_every_panel_speaks_of_exported_series(exported: Exported) -> None:
    assert len(list(targets())) > 40
    for target in targets():
        check(target["expr"], target["legendFormat"], exported)
    for annotation in DASHBOARD["annotations"]["list"]:
        check(annotation["expr"], "", exported)


def test_the_dashboard_has_its_rows_and_asks_the_chosen_data_source_only() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Protection", "Closures", "Latency", "Queues", "Feed", "Processes"]
    [chosen] = DASHBOARD["templating"]["list"]
    assert (chosen["name"], chosen["type"], chosen["query"]) == ("datasource", "datasource", "prometheus")
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["title"]
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_the_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _y in cells) < 24
