"""What must hold for whatever bytes come: each reader takes an input, and raises where a promise does not hold.

READERS: kind of input -> reader(data, cuts). `cuts` are the places at which the input is cut into pieces, in order; a
reader that reads it in one piece ignores them. A refusal is a result; any exception but a `GatewayError` is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.billing.cost import itemise
from gateway.config.price_settings import PriceSettings
from gateway.errors import GatewayError
from gateway.http.parser import RequestParser
from gateway.protocol.body_bounds import DEFAULT_BOUNDS
from gateway.protocol.dialects.dialect import Dialect, StreamForm, StreamSummary
from gateway.protocol.form_body import read_form_request
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.operations import OPERATIONS
from gateway.protocol.request_body import read_request_body
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import last_boundary, split_events
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.token_estimates import estimate_input_tokens
from gateway.protocol.usage_reader import read_usage
from gateway.websocket.messages import event_message, read_message, request_body

SAVED: Final = Path(__file__).parents[1] / "data" / "saved_inputs"
DIALECTS: Final[tuple[Dialect, ...]] = tuple({row.dialect.name: row.dialect for row in OPERATIONS}.values())
"""Each dialect of the gateway, once."""
BOUNDARY: Final = b"limit"
"""The boundary of the saved forms."""

_HEAD_CODES: Final = ("", "invalid_http", "headers_too_large")
_PRICE: Final = PriceSettings.model_validate({"input": "1", "cached_input": "0.1", "output": "10"}).price()
_ENDED_MS: Final = 1_800_000_000_000
_SMALL_BOUND: Final = 30

Reader = Callable[[bytes, Sequence[int]], None]


def saved(kind: str) -> list[Path]:
    """The saved inputs of a kind, by name."""
    return sorted((SAVED / kind).iterdir())


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """The bytes in pieces: from each place to the next, and the rest."""
    start = 0
    for end in cuts:
        yield data[start:end]
        start = max(start, end)
    yield data[start:]


def read_a_request(data: bytes, dialect: Dialect) -> None:
    """A body is read, or refused with 400 or 413."""
    try:
        read = read_request_body(data, dialect.request, needs_input=dialect.name == "responses")
    except GatewayError as refused:
        _is_a_clients_fault(refused)
        return
    assert read.model or read.previous_response_id or not read.names_model
    assert 0 <= read.input_tokens_estimate <= read.input_tokens_bound
    assert estimate_input_tokens(data) >= 0


def read_a_form(data: bytes, dialect: Dialect) -> None:
    """A form is read, or refused with 400 or 413."""
    try:
        read = read_form_request(data, b"multipart/form-data; boundary=" + BOUNDARY, dialect.request)
    except GatewayError as refused:
        _is_a_clients_fault(refused)
        return
    assert read.form is not None
    assert all(0 <= part.start <= part.end <= len(data) for part in read.form.parts)


def observe_a_stream(data: bytes, cuts: Sequence[int], dialect: Dialect, bound: int) -> StreamSummary:
    """Its bytes pass unchanged, however they are cut; where a dialect drops half an event at the end, all others do."""
    form = cast("StreamForm", dialect.stream)
    framer = SseFramer(SseObserver(form), bound)
    written = b"".join([*(framer.feed(piece) for piece in pieces(data, cuts)), framer.finish()])
    assert written == data or (not form.passes_partial_event and data.startswith(written))
    assert last_boundary(data[len(written) :]) < 0
    assert framer.observer.output_tokens_estimate() >= 0
    return framer.observer.summary()


def observe_as_a_whole_and_in_pieces(data: bytes, cuts: Sequence[int], dialect: Dialect) -> None:
    """How a stream ended and what it used do not depend on where it was cut."""
    in_pieces, whole = (observe_a_stream(data, places, dialect, 1 << 20) for places in (cuts, ()))
    told = [(seen.terminal, seen.usage, seen.done, seen.error) for seen in (in_pieces, whole)]
    assert told[0] == told[1], told
    observe_a_stream(data, cuts, dialect, _SMALL_BOUND)
    _cost(dialect, whole.usage)


def read_an_answer(data: bytes, dialect: Dialect) -> None:
    """A provider's JSON is an answer, an error, or neither; a usage costs something that can be booked."""
    fields = parse_object(data)
    if fields is None:
        return
    _cost(dialect, dialect.read_answer(fields).usage)
    error = GatewayError("invalid_json", data.decode("utf-8", "replace"))
    assert json.dumps(dialect.error_body(error, "req_1", False))


def parse_heads(data: bytes, cuts: Sequence[int]) -> tuple[int, int, bytes, str]:
    """The connection's heads, ends, bodies, and the code of the refusal that ended it, or ""."""
    owner = CountingOwner()
    parser = RequestParser(owner, 4096, 100)
    code = ""
    try:
        for piece in pieces(data, cuts):
            left = piece
            while left:
                rest = parser.feed(left)
                assert len(rest) < len(left)
                left = rest
    except GatewayError as refused:
        code = refused.code
    parser.close()
    assert owner.ends <= owner.heads
    return owner.heads, owner.ends, owner.body, code


def parse_heads_as_a_whole_and_in_pieces(data: bytes, cuts: Sequence[int]) -> None:
    """How many requests a connection holds does not depend on where it was cut."""
    in_pieces, whole = parse_heads(data, cuts), parse_heads(data, ())
    assert in_pieces[3] in _HEAD_CODES
    assert whole[3] in _HEAD_CODES
    assert in_pieces[1] == whole[1], (in_pieces, whole)
    assert (in_pieces[3] == "") == (whole[3] == ""), (in_pieces, whole)


def read_a_message(data: bytes, cuts: Sequence[int]) -> None:
    """A client's WebSocket message becomes the body of a request, or is refused; an event becomes one message."""
    _frames(data, cuts)
    try:
        data.decode()  # a text message is UTF-8 (RFC 6455, 8.1): the connection has looked
    except UnicodeDecodeError:
        return
    try:
        message = read_message(data, DEFAULT_BOUNDS)
    except GatewayError as refused:
        _is_a_clients_fault(refused)
    else:
        if message.places:
            json.loads(bytes(request_body(message)))
    for event in split_events(data[: max(0, last_boundary(data))]):
        shown = event_message(event, "lane")
        assert shown is None or shown.message.decode()


def _is_a_clients_fault(refused: GatewayError) -> None:
    assert refused.status in (400, 413), refused


def _frames(data: bytes, cuts: Sequence[int]) -> None:
    """The bytes as those of a connection after its handshake: frames, or a close with a code."""
    protocol = ServerProtocol(max_size=1024)
    protocol.state = State.OPEN
    protocol.parser = protocol.parse()
    next(protocol.parser)
    for piece in pieces(data, cuts):
        if piece:
            protocol.receive_data(piece)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            assert event.opcode in Opcode


def _cost(dialect: Dialect, usage: object) -> None:
    found = read_usage(dialect.name, usage)
    if found is not None:
        assert itemise(_PRICE, found, _ENDED_MS).nano_usd >= 0


class CountingOwner:
    """Whose bytes they are: what was seen of them."""

    def __init__(self) -> None:
        self.heads = 0
        self.ends = 0
        self.body = b""

    def on_head(self) -> None:
        """A head is whole."""
        self.heads += 1

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self.body += body

    def on_end(self) -> None:
        """A body is whole."""
        self.ends += 1


def _for_each(dialects: Sequence[Dialect], read: Callable[[bytes, Sequence[int], Dialect], None]) -> Reader:
    def reader(data: bytes, cuts: Sequence[int]) -> None:
        for dialect in dialects:
            read(data, cuts, dialect)

    return reader


READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "heads": parse_heads_as_a_whole_and_in_pieces,
        "requests": _for_each(DIALECTS, lambda data, _cuts, dialect: read_a_request(data, dialect)),
        "forms": _for_each(DIALECTS, lambda data, _cuts, dialect: read_a_form(data, dialect)),
        "streams": _for_each([one for one in DIALECTS if one.stream is not None], observe_as_a_whole_and_in_pieces),
        "answers": _for_each(DIALECTS, lambda data, _cuts, dialect: read_an_answer(data, dialect)),
        "messages": read_a_message,
    }
)
