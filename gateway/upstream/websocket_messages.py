"""The messages of a WebSocket connection to an upstream (OpenResponses, 2026-04-24, "WebSocket mode"). Pure.

    turn_message(body, lane) -> bytes        a body of POST as a `response.create`
    read(message) -> Told                    what an upstream's message is, and whose
    as_event(told, message) -> bytes         the message as a server-sent event, which is what relays read
    refusal(message) -> (status, headers, body)   an `error` in place of an answer, as HTTP would say it

A message is passed on byte for byte, but for line ends inside it: of those, CR is no part of an event's data.
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
ENDINGS: Final = frozenset({*TERMINAL_STATUSES, ERROR})
"""The messages that end a turn."""
STEERING: Final = "response.steer."
"""How the answers to `response.steer` begin. They are about a turn, and none of its events."""
ACCEPTED: Final = STEERING + "accepted"
PENDING: Final = STEERING + "pending"
NOT_KNOWN: Final = "previous_response_not_found"
TOO_OLD: Final = "websocket_connection_limit_reached"
"""The code of an upstream that closes a connection for its age: nothing was begun."""
NO_CHANGES: Final[Mapping[str, bytes | None]] = MappingProxyType({})
_OF_POST: Final[Mapping[str, None]] = MappingProxyType(dict.fromkeys(("stream", "stream_options", "background")))
_KIND: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"type"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z0-9_.:\-]+)"')
_LANE: Final = b'"stream_id"'
_SERVER_ERROR: Final = 500
_STATUSES: Final = range(400, 600)
_PASSED_ON: Final = re.compile(r"retry-after(-ms)?|x-(should-retry|request-id|ratelimit-[a-z\-]+)", re.IGNORECASE)
_JSON: Final = (b"content-type", b"application/json")


class Told(NamedTuple):
    """What a message is. `lane`: its `stream_id`; None: it names none."""

    kind: str
    lane: str | None


def turn_message(body: Body, lane: str, changes: Mapping[str, bytes | None] = NO_CHANGES) -> bytes:
    """A body of POST as the message that begins the same turn. `changes`: other values of members. In any thread."""
    text = replace(bytes(body), 0, {**_OF_POST, **changes})
    named = b'"stream_id":%b,' % dumps(lane) if lane else b""
    return b'{"type":"response.create",%b%b' % (named, text[text.index(b"{") + 1 :])


def read(message: bytes) -> Told | None:
    """What it is; None: it is no message of this protocol. Only a message with a lane is parsed."""
    found = _KIND.match(message)
    if found is not None and _LANE not in message:
        return Told(found[1].decode(), None)
    fields = parse_object(message)
    kind = None if fields is None else fields.get("type")
    if fields is None or not isinstance(kind, str) or "\n" in kind or "\r" in kind:
        return None
    lane = fields.get("stream_id")
    return Told(kind, lane if isinstance(lane, str) else None)


def as_event(told: Told, message: bytes) -> bytes:
    """The message as one server-sent event."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (told.kind.encode(), message)


def response_id(message: bytes) -> str:
    """The id of the response that an event carries; "" for none."""
    response = (parse_object(message) or {}).get("response")
    identifier = response.get("id") if isinstance(response, dict) else None
    return identifier if isinstance(identifier, str) else ""


def steer_id(message: bytes) -> str:
    """The id of the steering that an answer is about; "" for none."""
    steer = (parse_object(message) or {}).get("steer")
    identifier = steer.get("id") if isinstance(steer, dict) else None
    return identifier if isinstance(identifier, str) else ""


def error_of(message: bytes) -> Mapping[str, Any]:
    """What an error says, in either of its forms: nested, or flat as on a stream."""
    fields = parse_object(message) or {}
    nested = fields.get("error")
    if isinstance(nested, dict):
        return nested
    return {name: fields[name] for name in ("code", "message", "param") if name in fields}


def refusal(message: bytes) -> tuple[int, Headers, bytes]:
    """An error that came in place of a turn's first event, as the answer to a POST."""
    fields, error = parse_object(message) or {}, error_of(message)
    status = fields.get("status", fields.get("status_code"))
    if not isinstance(status, int) or isinstance(status, bool) or status not in _STATUSES:
        status = error_status(dict(error)) or _SERVER_ERROR
    named = fields.get("headers")
    headers: Headers = [_JSON]
    for name, value in named.items() if isinstance(named, dict) else ():
        if _PASSED_ON.fullmatch(name) and isinstance(value, str | int) and str(value).isascii():
            headers.append((name.lower().encode(), str(value).encode()))
    return status, headers, dumps({"error": dict(error)})
