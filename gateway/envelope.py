"""Step 2: the few fields of a request that the gateway reads. Everything else stays bytes.

    read_envelope(body) -> Envelope       or GatewayError: invalid_json, missing_field, invalid_field, duplicate_field
    with_model(envelope, model) -> bytes  the body with its model renamed and no other byte changed

A field that the gateway reads and the upstream reads too must mean the same to both. Parsers differ on a field that
occurs twice (first or last wins) and on other spellings (Go's encoding/json ignores case), so a body that has one of
`FIELDS` twice at its top level, escaped or in other case, is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.errors import GatewayError

FIELDS: Final = frozenset({"model", "input", "stream", "max_output_tokens", "previous_response_id"})
MAX_MODEL_LENGTH: Final = 256
MAX_TOKENS: Final = 1_000_000_000

BYTES_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 1_500
"""What one image counts in an estimate: about a high-detail image of 1024 x 1024 at the large providers."""
ATTACHMENT_BYTES_PER_TOKEN: Final = 16
"""Documents sent as base64: most of their bytes are fonts, images and compression."""

_NAMES: Final = tuple(f'"{name}"'.encode() for name in sorted(FIELDS))
# An escape that stands for "_" or a letter: the only way to spell one of FIELDS without its plain bytes.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[4-7][0-9a-fA-F])")
_MODEL_MEMBER: Final = re.compile(rb'("model"\s*:\s*)"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request as far as the gateway reads it. `body` is the bytes as they came."""

    body: bytes
    model: str
    stream: bool
    max_output_tokens: int | None
    previous_response_id: str | None
    input_tokens_estimate: int


def read_envelope(body: bytes) -> Envelope:
    """Reads a request body. Raises GatewayError for what the contract requires and the body lacks."""
    fields = _parse_object(body)
    _refuse_other_spellings(body, fields)
    model = fields.get("model")
    if model is None:
        raise GatewayError("missing_field", "The field 'model' is required.", param="model")
    if not isinstance(model, str) or not model.strip() or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise GatewayError(
            "invalid_field", f"'model' must be a model id of 1 to {MAX_MODEL_LENGTH} characters.", param="model"
        )
    value = fields.get("input")
    if value is None:
        raise GatewayError("missing_field", "The field 'input' is required.", param="input")
    if not isinstance(value, str | list):
        raise GatewayError("invalid_field", "'input' must be a string or an array of items.", param="input")
    return Envelope(
        body=body,
        model=model,
        stream=_flag(fields, "stream"),
        max_output_tokens=_tokens(fields, "max_output_tokens"),
        previous_response_id=_text(fields, "previous_response_id"),
        input_tokens_estimate=estimate_input_tokens(body),
    )


def with_model(envelope: Envelope, model: str) -> bytes:
    """The body with `model` in place of the caller's; all other bytes as they came."""
    replacement = orjson.dumps(model)
    expected: dict[str, Any] | None = None
    matches = list(_MODEL_MEMBER.finditer(envelope.body))
    for match in matches:
        renamed = b"".join((envelope.body[: match.end(1)], replacement, envelope.body[match.end() :]))
        if len(matches) == 1:
            return renamed
        # Nested objects have a "model" of their own: the right one is that which changes the top level.
        expected = expected or {**orjson.loads(envelope.body), "model": model}
        if orjson.loads(renamed) == expected:
            return renamed
    # Only an escaped spelling is left: the caller wrote "mod\u0065l".
    return orjson.dumps({**orjson.loads(envelope.body), "model": model})


def estimate_input_tokens(body: bytes) -> int:
    """Tokens that a body may hold, from its bytes: attachments in base64 count by their kind, the rest as text."""
    text = len(body)
    attached = 0
    at = body.find(b";base64,")
    while at >= 0:
        end = body.find(b'"', at)
        end = len(body) if end < 0 else end
        text -= end - at
        if body.rfind(b"data:image/", max(0, at - 64), at) < 0:
            attached += (end - at) // ATTACHMENT_BYTES_PER_TOKEN
        at = body.find(b";base64,", end)
    return -(-text // BYTES_PER_TOKEN) + attached + IMAGE_TOKENS * body.count(b'"input_image"')


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise GatewayError("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    return fields


def _refuse_other_spellings(body: bytes, fields: dict[str, Any]) -> None:
    for name in fields:
        if name not in FIELDS and name.casefold() in FIELDS:
            raise GatewayError(
                "duplicate_field", f"{name!r} could be read as {name.casefold()!r}: write it so.", param=name.casefold()
            )
    if all(body.count(name) < 2 for name in _NAMES) and _ESCAPED_LETTER.search(body) is None:  # noqa: PLR2004 - twice
        return
    # Rare: a name occurs deeper too, or is escaped. The last object that the hook sees is the top level.
    top: list[tuple[str, Any]] = []

    def keep(members: list[tuple[str, Any]]) -> None:
        nonlocal top
        top = members

    json.loads(body, object_pairs_hook=keep)
    seen: set[str] = set()
    for name, _ in top:
        if name in FIELDS and name in seen:
            raise GatewayError("duplicate_field", f"The field {name!r} occurs twice.", param=name)
        seen.add(name)


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise GatewayError("invalid_field", f"{name!r} must be true or false.", param=name)
    return value


def _tokens(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOKENS:
        raise GatewayError("invalid_field", f"{name!r} must be a whole number from 1 to {MAX_TOKENS}.", param=name)
    return value


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise GatewayError("invalid_field", f"{name!r} must be a string.", param=name)
    return value
