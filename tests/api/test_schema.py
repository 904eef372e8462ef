"""The OpenAPI document: complete, valid, without a warning, open to everyone."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

PATHS = {
    "/api/account": {"get"},
    "/api/account/ledger": {"get"},
    "/api/deals": {"get", "post"},
    "/api/deals/{id}": {"get", "patch"},
    "/api/deals/{id}/close": {"post"},
    "/api/notifications": {"get"},
    "/api/prices": {"get"},
    "/api/session": {"post", "delete"},
    "/api/token": {"post"},
}


@pytest.fixture
def schema() -> dict[str, Any]:
    document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return document


def test_the_schema_is_valid_and_raises_no_warning(tmp_path: Any) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yml"))


def test_every_path_is_described_once(schema: dict[str, Any]) -> None:
    found = {path: set(methods) for path, methods in schema["paths"].items()}

    assert {path: found.get(path) for path in PATHS} == PATHS
    assert not [path for path in found if path.endswith("/")]


def test_every_endpoint_says_what_it_is_and_how_it_refuses(schema: dict[str, Any]) -> None:
    for path, methods in PATHS.items():
        for method in methods:
            endpoint = schema["paths"][path][method]
            assert endpoint["summary"], path
            assert endpoint["description"], path
            assert {"401", "429", "503"} <= set(endpoint["responses"]), (path, method)
            for status, answer in endpoint["responses"].items():
                if status.startswith(("4", "5")):
                    error = answer["content"]["application/json"]["schema"]
                    assert error == {"$ref": "#/components/schemas/Error"}, (path, method, status)


def test_every_field_is_described_in_camel_case(schema: dict[str, Any]) -> None:
    fields = [
        (component, name, field)
        for component, body in schema["components"]["schemas"].items()
        for name, field in body.get("properties", {}).items()
    ]

    assert len(fields) > 50
    assert [(component, name) for component, name, field in fields if not field.get("description")] == []
    assert [name for _component, name, _field in fields if "_" in name] == []


def test_what_is_sent_is_described_with_every_bound(schema: dict[str, Any]) -> None:
    bodies = schema["components"]["schemas"]
    reason = {"minLength": 1, "maxLength": 500}
    assert bodies["Reason"]["properties"]["reason"].items() >= reason.items()
    assert bodies["Reason"]["additionalProperties"] is False
    assert bodies["PatchedAmendLevels"]["minProperties"] == 1
    assert "BTCUSDT" in bodies["SymbolEnum"]["enum"]
    assert bodies["OpenDeal"]["properties"]["symbol"]["allOf"] == [{"$ref": "#/components/schemas/SymbolEnum"}]
    lists = {path: endpoint["get"]["parameters"] for path, endpoint in schema["paths"].items() if _is_list(endpoint)}
    assert len(lists) == 4
    for parameters in lists.values():
        [limit] = [parameter["schema"] for parameter in parameters if parameter["name"] == "limit"]
        assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 200, 50)


def test_taking_a_deal_out_needs_a_reason_in_the_document_too(schema: dict[str, Any]) -> None:
    [reason] = [
        parameter
        for parameter in schema["paths"]["/api/admin/workers/jobs/{dealId}"]["delete"]["parameters"]
        if parameter["name"] == "reason"
    ]
    assert reason["required"]
    assert reason["schema"].items() >= {"minLength": 1, "maxLength": 500}.items()


def _is_list(endpoint: dict[str, Any]) -> bool:
    return any(parameter["name"] == "cursor" for parameter in endpoint.get("get", {}).get("parameters", ()))


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/", "/api/docs", "/api/docs/"])
def test_schema_and_docs_are_open_to_everyone(db: None, path: str) -> None:
    assert APIClient().get(path).status_code == 200
