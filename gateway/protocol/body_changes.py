"""The changes that the gateway makes in a request's body. All other bytes reach the provider unchanged. Pure.

| field                          | is changed if                               | because                               |
|--------------------------------|---------------------------------------------|---------------------------------------|
| `model`                        | a route, an alias or its spelling demands   | the provider has another name for it  |
| `max_output_tokens`,           | the caller set no bound, and the model can  | no more than the hold may be charged, |
| `max_completion_tokens`,       | put out more than the hold covers           | so the provider must know the bound   |
| `max_tokens`                   |                                             |                                       |
| `stream_options.include_usage` | a stream of completions or chat completions | a stream is settled by its usage      |
|                                | is requested without it                     |                                       |
| `usage.include`                | the upstream has `ask_for_cost`, and the    | the provider reports the cost of a    |
|                                | caller leaves it open                       | request only on demand                |
| `input`, `store`,              | the route has `state = "gateway"`           | the gateway keeps earlier turns       |
| `conversation`,                | (gateway/state/turns.py)                    |                                       |
| `previous_response_id`         |                                             |                                       |

    with_model(body, model)                         another model
    with_output_bound(body, field, tokens)          a bound on the output
    with_flag(body, name, flag)                     a request for what a provider reports on demand: usage, cost

    with_members(body, places, values)              several of them at once, in a large body whose `places` are known

If a provider refuses an addition by its name, the request is repeated without it: `Addition`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import orjson

from gateway.protocol.byte_search import joined
from gateway.protocol.multipart import Form, with_text
from gateway.types import Body

Places = Mapping[str, tuple[int, int]]
"""The name of a member -> the start and the end of its value."""

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NEXT_STRING_OR_BRACKET: Final = re.compile(rb'[^"\[\]{}]*+(' + _STRING + rb"|[\[\]{}])")
_NEXT_BRACKET: Final = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])')
_OPENING: Final = frozenset({b"{", b"["})
_CLOSING: Final = frozenset({b"}", b"]"})
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_WHOLE_STRING: Final = re.compile(_STRING)
_SCALAR: Final = re.compile(rb"[^ \t\r\n,}\]]*")
_END: Final = re.compile(rb"[ \t\r\n]*+\}")


_ASKED: Final = b'{"include_usage":true}'
ASKS_COST: Final = b'{"include":true}'


class Addition(NamedTuple):
    """Something that the gateway adds to a body. `words` are the texts by which a refusal may name it."""

    name: str
    words: tuple[bytes, ...]

    def is_named_in(self, refusal: bytes) -> bool:
        """Whether the body of a refusal names it."""
        return any(map(refusal.__contains__, self.words))


USAGE_ASKED: Final = Addition("stream_options", (b"stream_options", b"include_usage"))
COST_ASKED: Final = Addition(
    "usage",
    (
        b"'usage'",
        b'"usage"',
        b"`usage`",
        b"usage.include",
        b"body.usage",
        b": usage",
        b"parameter usage",
        b"field usage",
    ),
)
ENCRYPTED_REASONING: Final = Addition("encrypted_content", (b"encrypted_content", b"ncrypted content"))
"""Encrypted reasoning, which the gateway adds to later turns if it keeps the state."""
NOTHING_ADDED: Final[tuple[Addition, ...]] = ()


def output_bound_in(field: str) -> Addition:
    """Returns the addition of a bound on the output in this field."""
    return Addition(field, (field.encode(),))


def with_model(body: Body, model: str, form: Form | None = None) -> Body:
    """Returns the body with another model. `form` has its parts if it is a form with files."""
    if form is not None:
        return with_text(body, form, "model", model)
    return _with_member(body, b"model", orjson.dumps(model))


def with_output_bound(body: Body, field: str, tokens: int) -> bytes:
    """Returns the body with a bound on its output, in a field that is absent or null."""
    name = field.encode()
    if name in body or b"\\u00" in body:
        return _with_member(body, name, b"%d" % tokens)
    begin = body.index(b"{") + 1  # a body has a model, so another member follows
    return b"".join((body[:begin], b'"%b":%d,' % (name, tokens), body[begin:]))


def with_flag(body: Body, name: str, flag: bytes) -> bytes:
    """Returns the body with a flag set in one of its objects, such as `stream_options`."""
    start = next((value_at for found, value_at in members(body) if found == name), None)
    if start is None or not body.startswith(b"{", start):
        return _with_member(body, name.encode(), b'{"%b":true}' % flag)
    end = _value_end(body, start)
    options = _with_member(body[start:end], flag, b"true")
    return b"".join((body[:start], options, body[end:]))


def with_members(body: Body, places: Places, values: Mapping[str, bytes], *, asks_usage: bool) -> Body:
    """Returns a large body with other values for these members. It is copied once, in short calls.

    Members that the body does not have are added in front. With `asks_usage`, it also gets
    `stream_options.include_usage`.
    """
    if asks_usage:
        start, end = places.get("stream_options", (0, 0))
        options = bytes(body[start:end])
        is_object = options.startswith(b"{")
        values = {
            **values,
            "stream_options": _with_member(options, b"include_usage", b"true") if is_object else _ASKED,
        }
    if not values:
        return body
    begin = body.index(b"{") + 1
    added = b",".join([b'"%b":%b' % (name.encode(), value) for name, value in values.items() if name not in places])
    edits = [(begin, begin, added if not added or _END.match(body, begin) else added + b",")]
    edits += [(*places[name], value) for name, value in values.items() if name in places]
    view, at = memoryview(body), 0
    pieces: list[Body | memoryview] = []
    for start, end, value in sorted(edits):
        pieces += (view[at:start], value)
        at = end
    return joined([*pieces, view[at:]])


def members(body: Body) -> Iterator[tuple[str, int]]:
    """Yields the name of each member of a valid JSON object, and where its value starts. Takes linear time."""
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


def _with_member(body: Body, name: bytes, value: bytes) -> bytes:
    """Returns an object with another value for a member. If it does not have the member, that is added in front."""
    start = None
    if name in body or b"\\u00" in body:  # a name may be written with escapes
        start = next((value_at for found, value_at in members(body) if found.encode("utf-8", "replace") == name), None)
    if start is not None:
        return b"".join((body[:start], value, body[_value_end(body, start) :]))
    begin = body.index(b"{") + 1
    comma = b"" if _END.match(body, begin) else b","
    return b"".join((body[:begin], b'"', name, b'":', value, comma, body[begin:]))


def _value_end(body: Body, start: int) -> int:
    """Returns where the value that starts at `start` ends, in valid JSON."""
    if (text := _WHOLE_STRING.match(body, start)) is not None:
        return text.end()
    if body[start : start + 1] not in _OPENING:
        return _SCALAR.match(body, start).end()  # type: ignore[union-attr]  # matches the empty text, too
    depth, at = 0, start
    while (token := _NEXT_BRACKET.match(body, at)) is not None:
        at = token.end()
        depth += 1 if token[1] in _OPENING else -1
        if not depth:
            break
    return at
