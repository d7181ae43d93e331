"""Step 2: the few fields of a request that the gateway reads. Everything else stays bytes.

    read_request_body(body) -> RequestBody    or GatewayError: invalid_json, missing_field, invalid_field, ...
    with_model(request, model) -> bytes       the body with its model renamed and no other byte changed

A field that the gateway reads and the upstream reads too must mean the same to both. Parsers differ on a field that
occurs twice (first or last wins) and on other spellings (Go's encoding/json ignores case), so a body that has one of
`FIELDS` twice at its top level, escaped or in other case, is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from gateway.errors import GatewayError
from gateway.protocol.attachments import MARK, Attachment, cut_attachments, find_attachments
from gateway.protocol.request_facts import read_facts
from gateway.protocol.token_estimates import _estimate
from gateway.protocol.usage_reader import NO_FACTS, RequestFacts
from gateway.types import Body

FIELDS: Final = frozenset({"model", "input", "stream", "max_output_tokens", "previous_response_id", "store"})
MAX_MODEL_LENGTH: Final = 256
MAX_TOKENS: Final = 1_000_000_000

MAX_OUTPUT_TOKENS_FIELD: Final = 10
"""Tokens, by this module's estimate, of the member `"max_output_tokens": 1000000000`, and a line's indent."""
_LARGE_BYTES: Final = 64 * 1024  # a larger body is read without its attachments

# The group is in a look-ahead, so that only the quote is consumed and two names cannot hide each other.
_NAME: Final = re.compile(rb'"(?=(' + "|".join(sorted(FIELDS)).encode() + rb')")')
# An escape that stands for "_" or a letter: the only way to spell one of FIELDS without its plain bytes.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[4-7][0-9a-fA-F])")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NEXT_STRING_OR_BRACKET: Final = re.compile(rb'[^"\[\]{}]*+(' + _STRING + rb"|[\[\]{}])")
_NEXT_BRACKET: Final = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])')
_OPENING: Final = frozenset({b"{", b"["})
_CLOSING: Final = frozenset({b"}", b"]"})
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_WHOLE_STRING: Final = re.compile(_STRING)


class RequestBody(NamedTuple):
    """A request as far as the gateway reads it. `body`: as it came; `store`: its response may be named later."""

    body: Body
    model: str
    stream: bool
    max_output_tokens: int | None
    previous_response_id: str | None
    input_tokens_estimate: int
    store: bool = True
    facts: RequestFacts = NO_FACTS


def read_request_body(body: Body, *, needs_input: bool = True) -> RequestBody:
    """Reads a request body. Raises GatewayError for what the contract requires and the body lacks."""
    attachments = find_attachments(body)
    fields, text = _parse_large(body, attachments) if len(body) > _LARGE_BYTES else (_parse_object(body), body)
    _refuse_other_spellings(text, fields)
    get = fields.get
    model = get("model")
    if model is None:
        raise GatewayError("missing_field", "The field 'model' is required.", param="model")
    if not isinstance(model, str) or not model.strip() or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise GatewayError(
            "invalid_field", f"'model' must be a model id of 1 to {MAX_MODEL_LENGTH} characters.", param="model"
        )
    value = get("input")
    if value is None and needs_input:
        raise GatewayError("missing_field", "The field 'input' is required.", param="input")
    if value is not None and not isinstance(value, (str, list)):  # a union takes three times as long
        raise GatewayError("invalid_field", "'input' must be a string or an array of items.", param="input")
    stream, most, previous = get("stream"), get("max_output_tokens"), get("previous_response_id")
    return RequestBody(
        body,
        model,
        stream is not None and _flag(stream, "stream"),
        None if most is None else _tokens(most, "max_output_tokens"),
        None if previous is None else _text(previous, "previous_response_id"),
        _estimate(body, attachments, text),
        get("store") is not False,
        read_facts(fields),
    )


def with_model(request: RequestBody, model: str) -> bytes:
    """The body with `model` in place of the caller's; all other bytes as they came."""
    body = request.body
    start = next(value_at for name, value_at in _members(body) if name == "model")
    value = _WHOLE_STRING.match(body, start)
    if value is None:
        raise ValueError("an envelope's model is a string")
    return b"".join((body[:start], orjson.dumps(model), body[value.end() :]))


def _parse_large(body: Body, attachments: list[Attachment]) -> tuple[dict[str, Any], Body]:
    """The fields of a large body, and the body without its attachments: to parse those took most of its time."""
    text = cut_attachments(body, attachments)
    if text is not body:
        try:
            fields = orjson.loads(text)
        except orjson.JSONDecodeError:
            return _parse_object(body), body  # its error has the place in the whole
        if isinstance(fields, dict) and not any(_may_be_cut(value) for value in fields.values()):
            return fields, text
    return _parse_object(body), body


def _may_be_cut(value: object) -> bool:
    return isinstance(value, str) and value.endswith(MARK.decode())


def _parse_object(body: Body) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        fields = _parse_lenient(body, f"The body is not valid JSON: {error}.")
    if not isinstance(fields, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    return fields


def _parse_lenient(body: Body, problem: str) -> Any:
    """JSON by the grammar of RFC 8259: half an emoji (a lone surrogate) and 1e400 are in it; upstreams may take it."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise GatewayError("invalid_json", problem) from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _refuse_other_spellings(body: Body, fields: dict[str, Any]) -> None:
    for name in fields:
        if name not in FIELDS and name.casefold() in FIELDS:
            raise GatewayError(
                "duplicate_field", f"{name!r} could be read as {name.casefold()!r}: write it so.", param=name.casefold()
            )
    names = _NAME.findall(body)
    if len(names) == len(set(names)) and (b"\\" not in body or _ESCAPED_LETTER.search(body) is None):
        return
    # Rare: a name occurs deeper too, or is escaped.
    seen: set[str] = set()
    for name, _ in _members(body):
        if name in seen:
            raise GatewayError("duplicate_field", f"The field {name!r} occurs twice.", param=name)
        if name in FIELDS:
            seen.add(name)


def _members(body: Body) -> Iterator[tuple[str, int]]:
    """The top level of a valid JSON object: each name, and where its value starts. Linear, and no recursion."""
    depth, at = 0, 0
    while (token := (_NEXT_STRING_OR_BRACKET if depth == 1 else _NEXT_BRACKET).match(body, at)) is not None:
        at = token.end()
        text = token[1]
        if text in _OPENING:
            depth += 1
        elif text in _CLOSING:
            depth -= 1
        elif (colon := _COLON.match(body, at)) is not None:
            at = colon.end()
            yield json.loads(text) if b"\\" in text else text[1:-1].decode(), at


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise GatewayError("invalid_field", f"{name!r} must be true or false.", param=name)
    return value


def _tokens(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOKENS:
        raise GatewayError("invalid_field", f"{name!r} must be a whole number from 1 to {MAX_TOKENS}.", param=name)
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise GatewayError("invalid_field", f"{name!r} must be a string of printable characters.", param=name)
    return value
