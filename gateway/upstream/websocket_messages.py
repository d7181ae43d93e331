"""The messages of a WebSocket connection to an upstream (OpenResponses, 2026-04-24, "WebSocket mode"). Pure.

    turn_message(body, lane) -> bytes        the body of a POST as a `response.create` message
    read_head(message) -> MessageHead        the type and the lane of an upstream's message
    as_event(head, message) -> bytes         the message as a server-sent event, which relays read
    refusal(message) -> (status, headers, body)   an `error` message as the answer to a POST

A message is passed on byte for byte, except for line ends inside it, because CR cannot occur in an event's data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.protocol.dialects.openai_form import error_status
from gateway.protocol.json_splice import replace
from gateway.protocol.lenient_json import dumps, parse_object
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
_SERVER_ERROR: Final = 500
_STATUSES: Final = range(400, 600)
_FORWARDED: Final = re.compile(r"retry-after(-ms)?|x-(should-retry|request-id|ratelimit-[a-z\-]+)", re.IGNORECASE)
_JSON: Final = (b"content-type", b"application/json")


class MessageHead(NamedTuple):
    """The type and the lane of a message. `lane`: its `stream_id`, or None if it has none."""

    kind: str
    lane: str | None


def turn_message(body: Body, lane: str, changes: Mapping[str, bytes | None] = NO_CHANGES) -> bytes:
    """Returns the message that begins the same turn as a POST with this body. May run in any thread.

    `changes`: other values of members; None removes one.
    """
    text = replace(bytes(body), 0, {**_POST_MEMBERS, **changes})
    named = b'"stream_id":%b,' % dumps(lane) if lane else b""
    return b'{"type":"response.create",%b%b' % (named, text[text.index(b"{") + 1 :])


def read_head(message: bytes) -> MessageHead | None:
    """Reads the type and the lane of a message. None: it is not a message of this protocol.

    Only messages with a lane are parsed.
    """
    found = _KIND.match(message)
    if found is not None and _LANE not in message:
        return MessageHead(found[1].decode(), None)
    fields = parse_object(message)
    kind = None if fields is None else fields.get("type")
    if fields is None or not isinstance(kind, str) or "\n" in kind or "\r" in kind:
        return None
    lane = fields.get("stream_id")
    return MessageHead(kind, lane if isinstance(lane, str) else None)


def as_event(head: MessageHead, message: bytes) -> bytes:
    """Returns the message as one server-sent event."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (head.kind.encode(), message)


def response_id(message: bytes) -> str:
    """Returns the id of the response in an event, or ""."""
    response = (parse_object(message) or {}).get("response")
    identifier = response.get("id") if isinstance(response, dict) else None
    return identifier if isinstance(identifier, str) else ""


def steer_id(message: bytes) -> str:
    """Returns the id of the steering that a message answers, or ""."""
    steer = (parse_object(message) or {}).get("steer")
    identifier = steer.get("id") if isinstance(steer, dict) else None
    return identifier if isinstance(identifier, str) else ""


def read_error(message: bytes) -> Mapping[str, Any]:
    """Returns the fields of an error, which may be nested, or flat as in a stream."""
    fields = parse_object(message) or {}
    nested = fields.get("error")
    if isinstance(nested, dict):
        return nested
    return {name: fields[name] for name in ("code", "message", "param") if name in fields}


def refusal(message: bytes) -> tuple[int, Headers, bytes]:
    """Returns an error that came in place of a turn's first event, in the form of an answer to a POST."""
    fields, error = parse_object(message) or {}, read_error(message)
    status = fields.get("status", fields.get("status_code"))
    if not isinstance(status, int) or isinstance(status, bool) or status not in _STATUSES:
        status = error_status(dict(error)) or _SERVER_ERROR
    named = fields.get("headers")
    headers: Headers = [_JSON]
    for name, value in named.items() if isinstance(named, dict) else ():
        if _FORWARDED.fullmatch(name) and isinstance(value, str | int) and str(value).isascii():
            headers.append((name.lower().encode(), str(value).encode()))
    return status, headers, dumps({"error": dict(error)})
