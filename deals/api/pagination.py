"""Pages of a list, newest first. A page is found by the id where it begins: new rows neither shift nor repeat it."""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import ValidationError as BadValue
from django.db.models import BigIntegerField
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

MAX_LIMIT: Final = 200


class NewestFirst(CursorPagination):
    """`?limit=` and `?cursor=`; the answer's `next` and `previous` are the addresses of the pages around it."""

    ordering = "-id"
    page_size = 50
    max_page_size = MAX_LIMIT
    page_size_query_param = "limit"
    page_size_query_description = f"How many to answer: 1–{MAX_LIMIT}, 50 if not given."
    cursor_query_description = "Where the page begins: follow `next` and `previous` of the last answer."

    def get_page_size(self, request: Request) -> int:
        """The asked number of rows. Raises ValidationError when it is none from 1 to 200."""
        text = request.query_params.get("limit")
        if text is None:
            return self.page_size
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
            raise ValidationError({"limit": f"The limit must be a whole number from 1 to {MAX_LIMIT}."})
        return int(text)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """The asked position. Raises ValidationError when it is not one that this API gave out."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                BigIntegerField().to_python(cursor.position)
        except (NotFound, BadValue):
            raise ValidationError({"cursor": "The cursor must come from `next` or `previous` of an answer."}) from None
        return cursor

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """The framework's own, with the bounds of `limit`."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == self.page_size_query_param:
                parameter["schema"] |= {"minimum": 1, "maximum": MAX_LIMIT, "default": self.page_size}
        return parameters

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a page looks like."""
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": link | {"description": "The page with older rows; null on the last page."},
                "previous": link | {"description": "The page with newer rows; null on the first page."},
                "results": schema | {"description": "The rows, newest first."},
            },
        }
