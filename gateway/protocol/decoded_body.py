"""Decodes a JSON body. Pure.

    decode_body(body, attachments, bounds, form) -> DecodedBody    or GatewayError: invalid_json, duplicate_field, ...

A large body is decoded without its attachments, in slices (`json_slices`), and within bounds (`body_bounds`). Parsers
differ on a field that occurs twice (first or last wins) and on other spellings (Go's encoding/json ignores case). A
body is therefore refused if a field that the gateway reads occurs twice at its top level, escaped or in another case.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

import orjson

from gateway.errors import GatewayError
from gateway.protocol.attachments import MARK, Attachment, cut_places, without
from gateway.protocol.body_bounds import BodyBounds, check_bounds
from gateway.protocol.body_changes import Places, members
from gateway.protocol.dialects.dialect import RequestForm
from gateway.protocol.json_slices import Sliced, parse_in_slices
from gateway.types import Body

LARGE_BYTES: Final = 64 * 1024
"""A larger body is decoded in slices."""

# An escaped "_" or letter, which is the only way to spell a field without its plain bytes.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[4-7][0-9a-fA-F])")


class DecodedBody(NamedTuple):
    """The fields of a body.

    `text` is the body, without long attachments if they were cut out. Their contents are missing in `fields` too.
    `places` are the positions of the members that the gateway reads, in a large body.
    """

    fields: dict[str, Any]
    text: Body
    places: Places | None = None


def decode_body(body: Body, attachments: list[Attachment], bounds: BodyBounds, form: RequestForm) -> DecodedBody:
    """Decodes a body, which must be an object."""
    fields: Any
    text, places = body, None
    if len(body) > LARGE_BYTES:
        fields, text, places = _decode_large(body, attachments, bounds, form)
    else:
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            fields = _decode_lenient(body, error)
    if not isinstance(fields, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    read = form.fields
    for name in fields:
        if name not in read and name.casefold() in read:
            raise GatewayError(
                "duplicate_field", f"{name!r} could be read as {name.casefold()!r}: write it so.", param=name.casefold()
            )
    if places is None:
        _refuse_doubled(body, form)
    return DecodedBody(fields, text, places)


def _decode_large(
    body: Body, attachments: list[Attachment], bounds: BodyBounds, form: RequestForm
) -> tuple[Any, Body, Places]:
    """Decodes a large body without its attachments, which would take most of the time."""
    cuts = cut_places(body, attachments)
    text = without(body, cuts)
    check_bounds(text, bounds)
    sliced = _in_slices(text, cuts, form)
    if cuts and isinstance(sliced.value, dict) and any(map(_may_be_cut, sliced.value.values())):
        cuts, text = [], body
        sliced = _in_slices(text, cuts, form)
    for name, found in sliced.places.items():
        if len(found) > 1:
            raise _doubled(name)
    places = {name: (_uncut(start, cuts), _uncut(end, cuts)) for name, [(start, end)] in sliced.places.items()}
    return sliced.value, text, places


def _in_slices(text: Body, cuts: list[tuple[int, int]], form: RequestForm) -> Sliced:
    try:
        return parse_in_slices(text, _loads, wanted=form.fields)
    except ValueError as error:
        where = " without its attachments" if cuts else ""
        raise GatewayError("invalid_json", f"The body is not valid JSON: {error}{where}.") from None


def _may_be_cut(value: object) -> bool:
    return isinstance(value, str) and value.endswith(MARK.decode())


def _uncut(at: int, cuts: list[tuple[int, int]]) -> int:
    """Returns the position in the body of a position in the text, which lacks the cuts."""
    for start, end in cuts:
        if at <= start:
            break
        at += end - start
    return at


def _loads(text: bytes) -> Any:
    """Parses a piece. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(text.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise error from None


def _decode_lenient(body: Body, error: orjson.JSONDecodeError) -> Any:
    """Decodes what orjson refuses but RFC 8259 permits, such as a lone surrogate or 1e400. Upstreams may accept it."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise GatewayError("invalid_json", f"The body is not valid JSON: {error}.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _refuse_doubled(body: Body, form: RequestForm) -> None:
    names = form.name.findall(body)
    if len(names) == len(set(names)) and (b"\\" not in body or _ESCAPED_LETTER.search(body) is None):
        return
    # Rare: a name occurs deeper too, or is escaped.
    read, seen = form.fields, set[str]()
    for name, _ in members(body):
        if name in seen:
            raise _doubled(name)
        if name in read:
            seen.add(name)


def _doubled(name: str) -> GatewayError:
    return GatewayError("duplicate_field", f"The field {name!r} occurs twice.", param=name)
