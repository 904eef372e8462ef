"""The page about the live stream names every type of event, and OpenAPI the same ones."""

from __future__ import annotations

import re

import pytest
from servers import PROJECT

from monitoring.api.stream_view import StreamEventSerializer
from monitoring.stream.wire import event, place_of


def test_the_page_and_openapi_name_the_same_types() -> None:
    page = (PROJECT / "docs" / "stream.md").read_text()
    named = re.findall(r"^\| `([a-zA-Z]+)` \|", page, re.MULTILINE)
    assert set(named) == set(StreamEventSerializer().fields["type"].choices)


@pytest.mark.parametrize(
    "cursor", ["", "-", "1", "1-", "-1", "01-0", "1-00", "1-0-0", "1-x", "²-1", f"{2**64}-0", "9" * 40]
)
def test_what_is_no_id_of_the_log_names_no_place(cursor: str) -> None:
    assert place_of(cursor) is None


def test_an_event_is_one_line_of_json_with_the_logs_time_and_id() -> None:
    place = place_of("1767873602310-7")
    assert place == (1767873602310, 7)
    assert event("state", '{"a":1}', place=place) == (
        b'id: 1767873602310-7\ndata: {"type":"state","data":{"a":1},"timestamp":"2026-01-08T12:00:02.310Z"}\n\n'
    )
