"""The messages of WebSocket mode (OpenResponses, 2026-04-24, "WebSocket mode"). Pure.

    read_message(text, bounds) -> Message   parses a client's message; raises GatewayError. May run in any thread
    request_body(message) -> Body           a `response.create` as the body of a POST with `stream: true`. The same
    event_message(event, lane)              one server-sent event as a message: its data, byte for byte
    error_message(...) -> bytes             {"type": "error", "status", "error": {"code", "message", "param", "type"}}

| change of an event                           | reason                                                              |
|----------------------------------------------|---------------------------------------------------------------------|
| `stream_id` is added                         | the turn's message named a lane                                     |
| an `error` event gets a numeric `status` and | the schema requires both; without a status Codex ignores the error  |
| an `error` object if they are missing        | and waits five minutes                                              |
| bytes that are not UTF-8 become U+FFFD       | RFC 6455, 8.1: a text message is UTF-8                              |

Comments and `[DONE]` become no messages. For an unknown previous response the specification requires an error code of
its own, which differs from that of a POST. Clients recognise it, and send their whole input again.
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
from gateway.protocol.byte_search import as_utf8, joined
from gateway.protocol.decoded_body import decode_body
from gateway.protocol.dialects.dialect import Bounds, RequestForm
from gateway.protocol.dialects.openai_form import error_status
from gateway.protocol.json_splice import members, replace
from gateway.protocol.lenient_json import dumps, parse_object
from gateway.protocol.sse_framing import fields as event_fields
from gateway.protocol.sse_framing import lf_lines
from gateway.state.large_work import dump_whole, parse_object_whole, parse_whole
from gateway.types import Body, Headers

CREATE: Final = "response.create"
STEER: Final = "response.steer"
_LANE: Final = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_DROPPED_MEMBERS: Final = ("type", "stream_id", "generate", "stream", "stream_options", "background")
_STREAM: Final[Mapping[str, bytes]] = MappingProxyType({"stream": b"true"})
_BETWEEN: Final = b", \t\r\n"
_FORM: Final = RequestForm(
    frozenset({*_DROPPED_MEMBERS, "previous_response_id", "input", "store", "model"}), bounds=lambda _fields: Bounds()
)
"""The members of a message that the gateway reads. Each may occur only once, as in a body."""
_BACKGROUND: Final = "A response in the background is asked for by POST: a turn of WebSocket mode is streamed."
_ERROR: Final = re.compile(rb'"type"\s*:\s*"error"')
_ERROR_WITHIN_BYTES: Final = 256  # the type of an event is among these first bytes
_SERVER_ERROR: Final = 500
_POST_NOT_FOUND: Final = ("response_not_found", "previous_response_id")
"""Code and param of the error for an unknown response in answers to POST, if the provider keeps the state."""
_NOT_FOUND_CODE: Final = "previous_response_not_found"
_NOT_FOUND: Final = CATALOGUE[_NOT_FOUND_CODE]
_BODY_HEADERS: Final = frozenset({b"content-type", b"content-length", b"connection"})


class Message(NamedTuple):
    """A client's message. `lane`: its `stream_id`, or "" if it has none.

    `fields`: its members; in a large message, attachments may be cut out of them. `text`: the whole message. `places`:
    the positions in it of the members that the gateway reads.
    """

    kind: str
    lane: str
    fields: Mapping[str, Any]
    text: bytes
    places: Places

    @property
    def previous_response_id(self) -> str | None:
        """The response that the turn continues."""
        value = self.fields.get("previous_response_id")
        return value if isinstance(value, str) else None

    @property
    def generates(self) -> bool:
        """Whether the turn asks for an answer of the model. If not, it is a warm-up."""
        return self.fields.get("generate") is not False


def read_message(text: bytes, bounds: BodyBounds) -> Message:
    """Parses a client's message.

    Raises GatewayError `missing_field`, `invalid_stream_id`, and as `decode_body` does.
    """
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


def check_switches(message: Message) -> None:
    """Raises GatewayError `invalid_field` if a turn asks for a background response, which only POST offers.

    The same if `generate` is neither true nor false: what was meant as a warm-up must not cost anything.
    """
    if message.fields.get("background") not in (None, False):
        raise GatewayError("invalid_field", _BACKGROUND, param="background")
    if not isinstance(message.fields.get("generate"), bool | None):
        raise GatewayError("invalid_field", "'generate' must be true or false.", param="generate")


def request_body(message: Message, changes: Mapping[str, bytes | None] = MappingProxyType({})) -> Body:
    """Returns a `response.create` message as a request's body. `changes`: other values of members; None removes one.

    All other members stay unchanged, byte for byte. A large message is copied once, in short calls.
    """
    values = {**_STREAM, **changes}
    text, gone = message.text, [name for name in (*_DROPPED_MEMBERS, *changes) if name in message.places]
    cuts = sorted(_whole_member(text, *message.places[name]) for name in gone)
    begins = [text.index(b"{") + 1, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), text.rindex(b"}")]
    new: list[bytes | memoryview] = [b'"%b":%b' % (name.encode(), value) for name, value in values.items() if value]
    remaining = [_trimmed(text, begin, end) for begin, end in zip(begins, ends, strict=True)]
    pieces: list[bytes | memoryview] = [b"{"]
    for piece in [*new, *filter(len, remaining)]:
        pieces += [piece, b","]
    pieces[-1] = b"}"
    return joined(pieces)


def input_of(message: Message) -> Any:
    """Returns the decoded `input` with its attachments. May run in any thread."""
    place = message.places.get("input")
    return None if place is None else parse_whole(message.text[place[0] : place[1]])


def _whole_member(text: bytes, start: int, end: int) -> tuple[int, int]:
    """Returns the start of a member's name and the end of its value. None of these names contains a quote."""
    closing = text.rindex(b'"', 0, start)
    return text.rindex(b'"', 0, closing), end


def _trimmed(text: bytes, begin: int, end: int) -> memoryview:
    """Returns the text between two removed members, without the commas at its ends."""
    while begin < end and text[begin] in _BETWEEN:
        begin += 1
    while end > begin and text[end - 1] in _BETWEEN:
        end -= 1
    return memoryview(text)[begin:end]


class EventMessage(NamedTuple):
    """One event as a message. `error`: its parsed fields if it is an error."""

    message: bytes
    error: Mapping[str, Any] | None = None


def event_message(event: bytes, lane: str) -> EventMessage | None:
    """Returns one server-sent event, which includes its blank line, as a message. None: it is not an event.

    May run in any thread.
    """
    name, data = _data_of(event)
    data = data.strip()
    if not data.startswith(b"{"):
        return None
    data = as_utf8(data)
    error = None
    if name == "error" or _ERROR.search(data, 0, _ERROR_WITHIN_BYTES) is not None:
        error = parse_object_whole(data)
        if error is None or error.get("type", name) != "error":
            error = None
        else:
            data = _with_status(data, error)
    return EventMessage(with_lane(data, lane), error)


def with_lane(data: bytes, lane: str) -> bytes:
    """Adds the lane to a message. An incomplete object stays unchanged."""
    whole = data.rstrip()
    if not lane or not whole.endswith(b"}"):
        return data
    head = whole[:-1].rstrip()
    if b'"stream_id"' in data:  # the upstream's own name of the lane is replaced
        try:
            return replace(data, 0, {"stream_id": dumps(lane)})
        except ValueError:
            return data
    return b"%b%b%b}" % (head, b"" if head.endswith(b"{") else b",", b'"stream_id":' + dumps(lane))


def error_message(status: int, body: bytes, headers: Headers, lane: str) -> bytes:
    """Returns a refusal as a message. Its headers, such as `retry-after` and `x-request-id`, become a member."""
    answer = parse_object(body) or {}
    found = answer.get("error")
    error = dict(found) if isinstance(found, dict) else {"message": found if isinstance(found, str) else ""}
    if (error.get("code"), error.get("param")) == _POST_NOT_FOUND:
        status, error = _NOT_FOUND.status, {**error, "code": _NOT_FOUND_CODE, "type": _NOT_FOUND.type}
    header_fields = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name not in _BODY_HEADERS
    }
    event = {"type": "error", "status": status, "error": _whole_error(error, status), "headers": header_fields}
    return with_lane(dumps(event), lane)


def gateway_error_message(error: GatewayError, lane: str) -> bytes:
    """Returns an error of the gateway that belongs to no turn as a message."""
    event = {"type": "error", "status": error.status, **error.body()}
    return with_lane(dumps(event), lane)


NOT_SUPPORTED: Final = (
    "steering_not_supported",
    "This provider's responses cannot be steered. Send the input as a turn of its own.",
)


def steer_failed(message: Message, code: str, text: str) -> bytes:
    """Returns a refusal of a `response.steer`. It contains the input, so that the client can send it as a turn.

    May run in any thread.
    """
    steer = {"input": input_of(message), "previous_response_id": message.fields.get("previous_response_id")}
    error = {"type": "invalid_request_error", "code": code, "message": text}
    event = {"type": "response.steer.failed", "sequence_number": 0, "steer": steer, "error": error}
    return with_lane(dump_whole(event), message.lane)


def _whole_error(error: dict[str, Any], status: int) -> dict[str, Any]:
    """Returns an error with the members that the specification requires, as text, and without invalid ones."""
    code = error.get("code") or error.get("type") or f"http_{status}"
    message, param = error.get("message"), error.get("param")
    fields = {**error, "code": str(code), "message": message if isinstance(message, str) else f"HTTP status {status}."}
    if "type" in fields:
        fields["type"] = str(fields["type"])
    return {**fields, "param": param if isinstance(param, str) else None} if "param" in fields else fields


def _with_status(data: bytes, event: Mapping[str, Any]) -> bytes:
    status, nested = event.get("status"), event.get("error")
    error = nested if isinstance(nested, dict) else {n: event[n] for n in ("message", "param", "code") if n in event}
    added: dict[str, bytes | None] = {}
    if not isinstance(status, int) or isinstance(status, bool):
        kind = CATALOGUE.get(str(error.get("code")))  # the gateway's own error ends a broken stream
        status = error_status(error) or (kind.status if kind is not None else _SERVER_ERROR)
        added["status"] = b"%d" % status
    if not isinstance(nested, dict):
        added["error"] = dumps(_whole_error(dict(error), status))
    try:
        return replace(data, 0, added) if added else data
    except ValueError:
        return data


def _data_of(event: bytes) -> tuple[str, bytes]:
    """Returns the name and the data of an event. Most events consist of two lines and a blank one."""
    if event.startswith(b"event: ") and event.endswith(b"\n\n") and b"\r" not in event:
        end = event.find(b"\n")
        if event.startswith(b"data: ", end + 1) and event.find(b"\n", end + 1) == len(event) - 2:
            return event[7:end].decode("utf-8", "replace"), event[end + 7 : -2]
    return event_fields(lf_lines(event))
