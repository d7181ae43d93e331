"""The messages of a WebSocket connection to an upstream (OpenResponses, 2026-04-24, "WebSocket mode"). Pure.

    turn_message(body, lane) -> bytes        the body of a POST as a `response.create` message
    read_message(data) -> UpstreamMessage    an upstream's message: its head, the server-sent event that relays read,
                                             and an `error` as the answer to a POST

A message is passed on byte for byte, except for line ends between its values, because CR cannot occur in an event's
data. In a large message they become spaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.protocol.byte_search import PIECE_BYTES, find, joined
from gateway.protocol.dialects.openai_form import error_status
from gateway.protocol.json_splice import members, replace
from gateway.protocol.large_json import LARGE_BYTES, read_large
from gateway.protocol.lenient_json import dumps, parse_json, parse_object
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.types import Body, Headers

CREATED: Final = "response.created"
ERROR: Final = "error"
FINAL_KINDS: Final = frozenset({*TERMINAL_STATUSES, ERROR})
"""The messages that end a turn."""
STEERING: Final = "response.steer."
"""The prefix of answers to `response.steer`. They concern a turn, but are not events of its stream."""
ACCEPTED: Final = STEERING + "accepted"
PENDING: Final = STEERING + "pending"
PREVIOUS_NOT_FOUND: Final = "previous_response_not_found"
CONNECTION_TOO_OLD: Final = "websocket_connection_limit_reached"
"""The error code of an upstream that closes a connection because of its age. It has not begun the turn."""
NO_CHANGES: Final[Mapping[str, bytes | None]] = MappingProxyType({})
_POST_MEMBERS: Final[Mapping[str, None]] = MappingProxyType(dict.fromkeys(("stream", "stream_options", "background")))
_KIND: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"type"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9_.:\-]+)"')
_LANE: Final = b'"stream_id"'
_HEAD_MEMBERS: Final = frozenset({"type", "stream_id"})
_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")
_MAX_VALUES: Final = 10_000  # of a large message that is not output
_SERVER_ERROR: Final = 500
_STATUSES: Final = range(400, 600)
_FORWARDED: Final = re.compile(r"retry-after(-ms)?|x-(should-retry|request-id|ratelimit-[a-z\-]+)", re.IGNORECASE)
_JSON: Final = (b"content-type", b"application/json")


class MessageHead(NamedTuple):
    """The type and the lane of a message. `lane`: its `stream_id`, or None if it has none."""

    kind: str
    lane: str | None


class Refusal(NamedTuple):
    """An error that came in place of a turn's first event, in the form of an answer to a POST. `code`: the error's."""

    status: int
    headers: Headers
    body: bytes
    code: str


class UpstreamMessage(NamedTuple):
    """What an upstream has sent.

    `event` is the message as a server-sent event. `identifier` is the id of the response that begins, or of the
    steering that is answered; "" for other messages. `refusal`: what an error says.
    """

    head: MessageHead
    text: bytes
    event: bytes
    identifier: str = ""
    refusal: Refusal | None = None


def turn_message(body: Body, lane: str, changes: Mapping[str, bytes | None] = NO_CHANGES) -> bytes:
    """Returns the message that begins the same turn as a POST with this body. May run in any thread.

    `changes`: other values of members; None removes one.
    """
    text = replace(bytes(body), 0, {**_POST_MEMBERS, **changes})
    named = b'"stream_id":%b,' % dumps(lane) if lane else b""
    return b'{"type":"response.create",%b%b' % (named, text[text.index(b"{") + 1 :])


def read_message(data: Body) -> UpstreamMessage | None:
    """Reads a message. None: it is not one of this protocol. Never raises.

    May run in any thread, and makes no call that takes long. Only messages that are about more than a turn's output,
    or have a lane, are parsed.
    """
    text = bytes(data)
    head = _read_head(text)
    if head is None:
        return None
    event, kind = _as_event(head, text), head.kind
    if kind == CREATED:
        return UpstreamMessage(head, text, event, _id_of(text, "response"))
    if kind.startswith(STEERING):
        return UpstreamMessage(head, text, event, _id_of(text, "steer"))
    return UpstreamMessage(head, text, event, refusal=_refusal(text) if kind == ERROR else None)


def _read_head(text: bytes) -> MessageHead | None:
    found = _KIND.match(text)
    is_large = len(text) > LARGE_BYTES
    names_lane = find(text, _LANE) >= 0 if is_large else _LANE in text
    if found is not None and not names_lane:
        return MessageHead(found[1].decode(), None)
    fields = _members(text) if is_large else parse_object(text)
    kind = None if fields is None else fields.get("type")
    if fields is None or not isinstance(kind, str) or "\n" in kind or "\r" in kind:
        return None
    lane = fields.get("stream_id")
    return MessageHead(kind, lane if isinstance(lane, str) else None)


def _members(text: bytes) -> dict[str, Any] | None:
    """Returns the members of a large message that its head consists of. Most providers write them first."""
    found: dict[str, Any] = {}
    try:
        for name, start, end in members(text):
            if name in _HEAD_MEMBERS and end - start <= LARGE_BYTES:
                found[name] = parse_json(text[start:end])
                if len(found) == len(_HEAD_MEMBERS):
                    break
    except ValueError:
        return None
    return found


def _as_event(head: MessageHead, text: bytes) -> bytes:
    """Returns the message as one server-sent event."""
    if b"\n" in text or b"\r" in text:
        if len(text) > LARGE_BYTES:  # an event with so many lines would be several times as long
            text = bytes(
                joined(text[at : at + PIECE_BYTES].translate(_TO_SPACES) for at in range(0, len(text), PIECE_BYTES))
            )
        else:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (head.kind.encode(), text)


def _fields(text: bytes) -> dict[str, Any]:
    return (parse_object(text) if len(text) <= LARGE_BYTES else read_large(text, _MAX_VALUES)) or {}


def _id_of(text: bytes, member: str) -> str:
    """Returns the id of the response or of the steering in a message, or ""."""
    inner = _fields(text).get(member)
    identifier = inner.get("id") if isinstance(inner, dict) else None
    return identifier if isinstance(identifier, str) else ""


def _refusal(text: bytes) -> Refusal:
    """Reads an error, which may be nested, or flat as in a stream."""
    fields = _fields(text)
    nested = fields.get("error")
    error = nested if isinstance(nested, dict) else {n: fields[n] for n in ("code", "message", "param") if n in fields}
    status = fields.get("status", fields.get("status_code"))
    if not isinstance(status, int) or isinstance(status, bool) or status not in _STATUSES:
        status = error_status(dict(error)) or _SERVER_ERROR
    named = fields.get("headers")
    headers: Headers = [_JSON]
    for name, value in named.items() if isinstance(named, dict) else ():
        if _FORWARDED.fullmatch(name) and isinstance(value, str | int) and str(value).isascii():
            headers.append((name.lower().encode(), str(value).encode()))
    return Refusal(status, headers, dumps({"error": dict(error)}), str(error.get("code")))
