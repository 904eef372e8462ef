"""Reads JSON bodies without losing a digit: camelCase keys become Python names, no number becomes a float."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, NoReturn

from djangorestframework_camel_case.util import camel_to_underscore
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

MAX_BODY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class NumberText:
    """A JSON number with a point or an exponent, as it was written."""

    text: str

    def __str__(self) -> str:
        return self.text


class MalformedJSON(ParseError):
    """400: the body is not JSON."""

    default_code = "malformed_json"


class InvalidBody(ParseError):
    """400: the body is JSON, but no object."""

    default_detail = "The body must be a JSON object."
    default_code = "invalid_body"


class BodyTooLarge(APIException):
    """413: no request of this API needs that much."""

    status_code = 413
    default_detail = f"The body must have at most {MAX_BODY_BYTES} bytes."
    default_code = "body_too_large"


class ExactJSONParser(BaseParser):
    """`application/json`, an object: decimals stay text; NaN, Infinity and a field that is given twice are refused."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], _media_type: str | None = None, _parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The body as Python values. Raises MalformedJSON, InvalidBody and BodyTooLarge."""
        body = stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
        try:
            data = json.loads(
                body.decode(), parse_float=NumberText, parse_constant=_refuse_constant, object_pairs_hook=_names
            )
        except RecursionError:
            raise MalformedJSON("The body is nested too deeply.") from None
        except ValueError as error:
            raise MalformedJSON(f"The body is not valid JSON: {error}.") from None
        if not isinstance(data, dict):
            raise InvalidBody
        return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        name = camel_to_underscore(key)
        if name in fields:
            # Which one counts would be a guess, and it may be a Stop Loss.
            raise ValueError(f"{key} is given twice")
        fields[name] = value
    return fields
