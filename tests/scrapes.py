"""Scrapes of /metrics, read into figures by name and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families as parse
from rest_framework.test import APIClient

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def client_with(token: str) -> APIClient:
    """A client that shows a token."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    return client


def scrape(client: APIClient) -> Samples:
    """Every sample; names without their prefix."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.content
    return {
        (sample.name.removeprefix("cryptocraze_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(answer.content.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One figure."""
    return samples[name, tuple(sorted(labels.items()))]


def names(samples: Samples) -> set[str]:
    """The names that have a sample."""
    return {name for name, _labels in samples}
