"""The messages of WebSocket mode (OpenResponses, 2026-04-24, "WebSocket mode"). Pure.

    read_message(text, bounds) -> Message   what a client sends; raises GatewayError. In any thread
    request_body(message) -> Body           a `response.create` as the body of a POST with `stream: true`. In any thread
    event_message(event, lane) -> bytes     one server-sent event as a message: its data, byte for byte
    error_message(...) -> bytes             {"type": "error", "status", "error": {"code", "message", "param", "type"}}

| what is changed of an event                  | why                                                                 |
|----------------------------------------------|---------------------------------------------------------------------|
| `stream_id` is added                         | the turn's message named a lane                                     |
| an `error` without a numeric `status` gets   | Codex ignores such an error and waits five minutes; the schema asks |
| one, and `error` where it is missing         | for both                                                            |
| bytes that are no UTF-8 become U+FFFD        | RFC 6455, 8.1: a text message is UTF-8                              |

Comments and `[DONE]` are no messages. A previous response that is not known has the one code that the specification
requires here, whatever POST says: clients know it, and send their whole input again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.errors import CATALOGUE, GatewayError
from gateway.protocol.attachments import find_attachments
from gateway.protocol.body_bounds import BodyBounds
from gateway.protocol.body_changes import Places
from gateway.protocol.byte_search import joined
from gateway.protocol.decoded_body import decode_body
from gateway.protocol.dialects.dialect import Bounds, RequestForm
from gateway.protocol.dialects.openai_form import error_status
from gateway.protocol.json_splice import members, replace
from gateway.protocol.lenient_json import dumps, parse_json, parse_object
from gateway.protocol.sse_framing import fields as event_fields
from gateway.protocol.sse_framing import lf_lines
from gateway.types import Body, Headers

CREATE: Final = "response.create"
STEER: Final = "response.steer"
_LANE: Final = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_NOT_SENT_ON: Final = ("type", "stream_id", "generate", "stream", "stream_options", "background")
_STREAM: Final[Mapping[str, bytes]] = MappingProxyType({"stream": b"true"})
_BETWEEN: Final = b", \t\r\n"
_FORM: Final = RequestForm(
    frozenset({*_NOT_SENT_ON, "previous_response_id", "input", "store", "model"}), bounds=lambda _fields: Bounds()
)
"""What is read of a message: each once at most, as in a body."""
_BACKGROUND: Final = "A response in the background is asked for by POST: a turn of WebSocket mode is streamed."
_ERROR: Final = re.compile(rb'"type"\s*:\s*"error"')
_ERROR_WITHIN_BYTES: Final = 256  # where an event's type stands
_SERVER_ERROR: Final = 500
_NOT_KNOWN: Final = ("response_not_found", "previous_response_id")
"""How POST says that a response is not known, on a route whose provider keeps the state."""
_NOT_FOUND_CODE: Final = "previous_response_not_found"
_NOT_FOUND: Final = CATALOGUE[_NOT_FOUND_CODE]
_BODY_HEADERS: Final = frozenset({b"content-type", b"content-length", b"connection"})


class Message(NamedTuple):
    """What a client has sent. `lane`: its `stream_id`, "" for the one that has no name.

    `fields`: its members; of a large message, attachments may be cut out of them. `text`: all of it, and `places` where
    the members stand in it that are read here.
    """

    kind: str
    lane: str
    fields: Mapping[str, Any]
    text: bytes
    places: Places

    @property
    def previous_response_id(self) -> str | None:
        """The response that it goes on from."""
        value = self.fields.get("previous_response_id")
        return value if isinstance(value, str) else None

    @property
    def generates(self) -> bool:
        """Whether it wants an answer of a model; if not, it is a warm-up."""
        return self.fields.get("generate") is not False


def read_message(text: bytes, bounds: BodyBounds) -> Message:
    """A client's message. Raises GatewayError: of `decode_body`, `missing_field`, `invalid_stream_id`."""
    fields, _, places = decode_body(text, find_attachments(text), bounds, _FORM)
    if places is None:
        places = {member.name: (member.start, member.end) for member in members(text) if member.name in _FORM.fields}
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise GatewayError("missing_field", "A message is an object with a 'type'.", param="type")
    lane = fields.get("stream_id")
    if kind == CREATE and lane is not None and not (isinstance(lane, str) and _LANE.fullmatch(lane)):
        message = "'stream_id' has 1 to 256 letters, digits, '_', '.' or '-'."
        raise GatewayError("invalid_stream_id", message, param="stream_id")
    return Message(kind, lane if isinstance(lane, str) else "", fields, text, places)


def refuse_background(message: Message) -> None:
    """Raises GatewayError `invalid_field` where it asks for what only POST has."""
    if message.fields.get("background") not in (None, False):
        raise GatewayError("invalid_field", _BACKGROUND, param="background")


def request_body(message: Message, changes: Mapping[str, bytes | None] = MappingProxyType({})) -> Body:
    """The body of the request that a `response.create` is. `changes`: other values of its members; None: without it.

    Other members stay byte for byte; a large message is copied once, in short calls.
    """
    values = {**_STREAM, **changes}
    text, gone = message.text, [name for name in (*_NOT_SENT_ON, *changes) if name in message.places]
    cuts = sorted(_whole_member(text, *message.places[name]) for name in gone)
    begins = [text.index(b"{") + 1, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), text.rindex(b"}")]
    new: list[bytes | memoryview] = [b'"%b":%b' % (name.encode(), value) for name, value in values.items() if value]
    kept = [_trimmed(text, begin, end) for begin, end in zip(begins, ends, strict=True)]
    pieces: list[bytes | memoryview] = [b"{"]
    for piece in [*new, *filter(len, kept)]:
        pieces += [piece, b","]
    pieces[-1] = b"}"
    return joined(pieces)


def input_of(message: Message) -> Any:
    """What its `input` says, with its attachments."""
    place = message.places.get("input")
    return None if place is None else parse_json(message.text[place[0] : place[1]])


def _whole_member(text: bytes, start: int, end: int) -> tuple[int, int]:
    """From a member's name to its value's end. The names that are read here have no quote in them."""
    closing = text.rindex(b'"', 0, start)
    return text.rindex(b'"', 0, closing), end


def _trimmed(text: bytes, begin: int, end: int) -> memoryview:
    """What is between two members that go, without the commas on its sides."""
    while begin < end and text[begin] in _BETWEEN:
        begin += 1
    while end > begin and text[end - 1] in _BETWEEN:
        end -= 1
    return memoryview(text)[begin:end]


class Shown(NamedTuple):
    """One event as a message. `fields`: parsed, where it is an error."""

    message: bytes
    error: Mapping[str, Any] | None = None


def event_message(event: bytes, lane: str) -> Shown | None:
    """One server-sent event, with its blank line, as a message; None for what is none."""
    name, data = _data_of(event)
    data = data.strip()
    if not data.startswith(b"{"):
        return None
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    error = None
    if name == "error" or _ERROR.search(data, 0, _ERROR_WITHIN_BYTES) is not None:
        error = parse_object(data)
        if error is None or error.get("type", name) != "error":
            error = None
        else:
            data = _with_status(data, error)
    return Shown(in_lane(data, lane), error)


def in_lane(data: bytes, lane: str) -> bytes:
    """A message that says to which lane it belongs. One that is no whole object stays as it is."""
    whole = data.rstrip()
    if not lane or not whole.endswith(b"}"):
        return data
    head = whole[:-1].rstrip()
    if b'"stream_id"' in data:  # an upstream's own: there is one name for a lane
        try:
            return replace(data, 0, {"stream_id": dumps(lane)})
        except ValueError:
            return data
    return b"%b%b%b}" % (head, b"" if head.endswith(b"{") else b",", b'"stream_id":' + dumps(lane))


def error_message(status: int, body: bytes, headers: Headers, lane: str) -> bytes:
    """A refusal's answer as a message. Its headers stand in it: `retry-after`, limits, `x-request-id`."""
    told = parse_object(body) or {}
    found = told.get("error")
    error = dict(found) if isinstance(found, dict) else {"message": found if isinstance(found, str) else ""}
    if (error.get("code"), error.get("param")) == _NOT_KNOWN:
        status, error = _NOT_FOUND.status, {**error, "code": _NOT_FOUND_CODE, "type": _NOT_FOUND.type}
    told_by = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name not in _BODY_HEADERS}
    event = {"type": "error", "status": status, "error": _whole_error(error, status), "headers": told_by}
    return in_lane(dumps(event), lane)


def gateway_error_message(error: GatewayError, lane: str) -> bytes:
    """An error of the gateway's own, of no turn."""
    event = {"type": "error", "status": error.status, **error.body()}
    return in_lane(dumps(event), lane)


NOT_SUPPORTED: Final = (
    "steering_not_supported",
    "This provider's responses cannot be steered. Send the input as a turn of its own.",
)


def steer_failed(message: Message, code: str, text: str) -> bytes:
    """The answer to `response.steer`: the input comes back, so that its client can send it as a turn."""
    steer = {"input": input_of(message), "previous_response_id": message.fields.get("previous_response_id")}
    error = {"type": "invalid_request_error", "code": code, "message": text}
    event = {"type": "response.steer.failed", "sequence_number": 0, "steer": steer, "error": error}
    return in_lane(dumps(event), message.lane)


def _whole_error(error: dict[str, Any], status: int) -> dict[str, Any]:
    """With what the specification requires of it, as text, and without what it does not allow."""
    code = error.get("code") or error.get("type") or f"http_{status}"
    message, param = error.get("message"), error.get("param")
    told = {**error, "code": str(code), "message": message if isinstance(message, str) else f"HTTP status {status}."}
    if "type" in told:
        told["type"] = str(told["type"])
    return {**told, "param": param if isinstance(param, str) else None} if "param" in told else told


def _with_status(data: bytes, event: Mapping[str, Any]) -> bytes:
    status, nested = event.get("status"), event.get("error")
    error = nested if isinstance(nested, dict) else {n: event[n] for n in ("message", "param", "code") if n in event}
    added: dict[str, bytes | None] = {}
    if not isinstance(status, int) or isinstance(status, bool):
        kind = CATALOGUE.get(str(error.get("code")))  # it may be the gateway's own, which ends a broken stream
        status = error_status(error) or (kind.status if kind is not None else _SERVER_ERROR)
        added["status"] = b"%d" % status
    if not isinstance(nested, dict):
        added["error"] = dumps(_whole_error(dict(error), status))
    try:
        return replace(data, 0, added) if added else data
    except ValueError:
        return data


def _data_of(event: bytes) -> tuple[str, bytes]:
    """Its name and its data. Most events are two lines and a blank one."""
    if event.startswith(b"event: ") and event.endswith(b"\n\n") and b"\r" not in event:
        end = event.find(b"\n")
        if event.startswith(b"data: ", end + 1) and event.find(b"\n", end + 1) == len(event) - 2:
            return event[7:end].decode("utf-8", "replace"), event[end + 7 : -2]
    return event_fields(lf_lines(event))
