"""Large exchanges that are more than a POST with JSON: bursts of events, kept state, forms, codings, sockets.

Each row has a name, what is large in it, and exchanges whose gaps stand beside each other in the table of `lag`.
"""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from websockets.sync.client import connect

from benchmarks.servers import CHAT_PATH, NO_ENV, RESPONSES_PATH, Target

_LAST: Final = (b'"response.completed"', b'"response.failed"', b'"response.incomplete"', b'"error"')
_USAGE: Final = b'"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}'
_COMPLETED: Final = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1","object":"response",'
    b'"status":"completed","output":[],%b}}\n\n' % _USAGE
)
_CHAT_END: Final = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,'
    b'"completion_tokens":2,"total_tokens":3}}\n\ndata: [DONE]\n\n'
)
_ANSWER: Final = b'{"id":"resp_1","object":"response","status":"completed","output":[%b],%b}'
_FORM_PATH: Final = "/v1/audio/transcriptions"
_BOUNDARY: Final = b"a-boundary"


class Provider(Protocol):
    """Answers each request with what was set last."""

    def answer(self, body: bytes, *, coding: bytes = b"") -> None:
        """Answers with JSON from now on."""

    def stream(self, events: bytes, *, coding: bytes = b"") -> None:
        """Answers with events from now on, written at once."""

    def say(self, messages: Sequence[bytes]) -> None:
        """Answers each turn over a WebSocket with these messages from now on."""


class Row(NamedTuple):
    """One row of the table."""

    name: str
    data: bytes
    exchanges: Sequence[Callable[[], int]]


def bursts(size: int) -> Iterator[tuple[str, str, bytes]]:
    """Many events at once: how they are called, the path of the request, and the events."""

    def many(event: bytes, end: bytes) -> bytes:
        return event * (size // len(event)) + end

    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"word "}\n\n'
    item = b'data: {"type":"response.output_item.done","item":{"type":"message","content":[]}}\n\n'
    yield "deltas", RESPONSES_PATH, many(delta, _COMPLETED)
    yield "items", RESPONSES_PATH, many(item, _COMPLETED)
    yield "comments", RESPONSES_PATH, many(b":\n\n", _COMPLETED)
    yield "empty objects", RESPONSES_PATH, many(b"data: {}\n\n", _COMPLETED)
    yield "CRLF", RESPONSES_PATH, many(delta.replace(b"\n", b"\r\n"), _COMPLETED)
    chunk = (
        b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":%d,"delta":{"content":"word "}}]}\n\n'
    )
    yield "chunks", CHAT_PATH, many(chunk % 0, _CHAT_END)
    yield "chunks of a second choice", CHAT_PATH, many(chunk % 1, _CHAT_END)
    yield (
        "chunks with usage",
        CHAT_PATH,
        many((chunk % 0).replace(b"}]}", b'}],"usage":{"prompt_tokens":1}}'), _CHAT_END),
    )


def rows(target: Target, provider: Provider, size: int, event_size: int) -> Iterator[Row]:
    """The rows. `size` bounds bodies, and `event_size` events and bursts of them."""
    for name, path, burst in bursts(event_size):
        plain = partial(_streamed, target, provider, path, burst)
        exchanges = [plain, partial(plain, model=b"kept")]
        if path == RESPONSES_PATH:
            exchanges.append(partial(_turn, target, provider, burst))
        yield Row(f"burst: {name}", burst, exchanges)
    text = json.dumps(
        {"type": "message", "content": [{"type": "output_text", "text": "hello wor " * (event_size // 10)}]}
    )
    response = _ANSWER % (text.encode(), _USAGE)
    event = b'data: {"type":"response.completed","response":%b}\n\n' % response
    streamed = partial(_streamed, target, provider, RESPONSES_PATH, event, model=b"kept")
    yield Row("answer kept: as JSON, in an event", response, [partial(_whole, target, provider, response), streamed])
    yield Row("event over a socket", event, [partial(_turn, target, provider, event)])
    body = b'{"type":"response.create","model":"m","input":"%b"}' % (b"hello wor " * 790_000)
    yield Row("message over a socket: text", body, [partial(_message, target, provider, body)])
    data = b"A" * (event_size // 4 * 4)
    image = b'{"type":"input_image","image_url":"data:image/png;base64,%b"}' % data
    image = b'{"type":"response.create","model":"m","input":[%b]}' % image
    yield Row("message over a socket: one image", image, [partial(_message, target, provider, image)])
    for name, large in _large_messages(event_size):
        yield Row(f"message of an upstream: {name}", large, [partial(_turn_upstream, target, provider, large)])
    kept = b'{"model":"kept","input":"%b"}' % (b"hello wor " * 390_000)
    yield Row("input kept", kept, [partial(_kept, target, provider, kept)])
    yield from _coded(target, provider, size)
    yield from _forms(target, provider)


def _coded(target: Target, provider: Provider, size: int) -> Iterator[Row]:
    image = b'{"model":"m","input":[{"type":"input_image","image_url":"data:image/png;base64,%b"}]}' % (
        b"A" * (size - 1000)
    )
    coded = gzip.compress(image, 1)
    sent = partial(ask, target, coded, RESPONSES_PATH, {"content-encoding": "gzip"})
    yield Row("gzip: a request that swells", image, [partial(_whole, target, provider, None, sent)])
    answer = _ANSWER % (b'{"type":"image_generation_call","result":"%b"}' % (b"A" * size), _USAGE)
    for name, data in (("swells", answer), ("of lists", _ANSWER % (b"[]," * (size // 3) + b"0", _USAGE))):
        yield Row(f"gzip: an answer {name}", data, [partial(_whole, target, provider, data, coding=b"gzip")])
    burst = b'data: {"type":"response.output_text.delta","delta":"word "}\n\n' * (size // 60) + _COMPLETED
    yield Row("gzip: a stream that swells", burst, [
        partial(_streamed, target, provider, RESPONSES_PATH, burst, coding=b"gzip"),
    ])  # fmt: skip


def _forms(target: Target, provider: Provider) -> Iterator[Row]:
    part = b'--%b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    file = part % (_BOUNDARY, b"file", b'; filename="a.wav"', b"\x00\r\n--" * 5_000_000)
    form = part % (_BOUNDARY, b"model", b"", b"m") + file + b"--%b--\r\n" % _BOUNDARY
    kind = {"content-type": f"multipart/form-data; boundary={_BOUNDARY.decode()}"}
    sent = partial(ask, target, form, _FORM_PATH, kind)
    yield Row("form with a file", form, [partial(_whole, target, provider, b'{"text":"x"}', sent)])


def ask(target: Target, body: bytes, path: str = RESPONSES_PATH, more: Mapping[str, str] = NO_ENV) -> int:
    """Sends one request and reads its answer; gives the status. `more`: further headers."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json", **more}
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _whole(
    target: Target, provider: Provider, answer: bytes | None, sent: Callable[[], int] | None = None, coding: bytes = b""
) -> int:
    answer = _ANSWER % (b"", _USAGE) if answer is None else answer
    provider.answer(zlib.compress(answer, 1, 31) if coding else answer, coding=coding)
    model = b"m" if coding else b"kept"
    return sent() if sent is not None else ask(target, b'{"model":"%b","input":"x"}' % model)


def _streamed(
    target: Target, provider: Provider, path: str, events: bytes, *, model: bytes = b"m", coding: bytes = b""
) -> int:
    provider.stream(zlib.compress(events, 1, 31) if coding else events, coding=coding)
    asked = b'"messages":[{"role":"user","content":"x"}]' if path == CHAT_PATH else b'"input":"x"'
    return ask(target, b'{"model":"%b",%b,"stream":true}' % (model, asked), path)


def _turn(target: Target, provider: Provider, events: bytes) -> int:
    provider.stream(events)
    return _asked_over_socket(target, b'{"type":"response.create","model":"m","input":"x"}')


def _large_messages(size: int) -> Iterator[tuple[str, bytes]]:
    """Messages by which an upstream may end a turn on a WebSocket."""

    def completed(output: bytes, more: bytes = b"") -> bytes:
        response = _ANSWER % (output, _USAGE)
        return b'{"type":"response.completed",%b"response":%b}' % (more, response)

    image = b'{"type":"image_generation_call","result":"%b"}' % (b"A" * size)
    yield "one image", completed(image)
    yield "lists", completed(b"[]," * (size // 30) + b"0")
    yield "one image, in a lane", completed(image, b'"stream_id":"a",')
    yield "lists, in a lane", completed(b"[]," * (size // 30) + b"0", b'"stream_id":"a",')
    yield "line ends", completed(b"\n" * size + b"0")
    yield "an error", b'{"type":"error","error":{"code":"x","message":"x","more":[%b0]}}' % (b"[]," * (size // 30))


def _turn_upstream(target: Target, provider: Provider, message: bytes) -> int:
    """One turn that goes to an upstream over a WebSocket, in a lane where the answer names one."""
    provider.say([message])
    lane = b'"stream_id":"a",' if b'"stream_id"' in message[:64] else b""
    return _asked_over_socket(target, b'{"type":"response.create",%b"model":"turns","input":"x"}' % lane)


def _message(target: Target, provider: Provider, message: bytes) -> int:
    provider.stream(_COMPLETED)
    return _asked_over_socket(target, message)


def _asked_over_socket(target: Target, message: bytes) -> int:
    """Returns 200 if the turn has ended well, and otherwise 500."""
    url = f"ws://127.0.0.1:{target.port}{RESPONSES_PATH}"
    with connect(
        url,
        ping_interval=None,
        additional_headers={"authorization": f"Bearer {target.key}"},
        max_size=None,
        compression=None,
        proxy=None,
    ) as socket:
        socket.send(message, text=True)
        while True:
            event = socket.recv(timeout=120, decode=False)
            if any(kind in event[:200] for kind in _LAST):
                return 200 if _LAST[0] in event[:200] else 500


def _kept(target: Target, provider: Provider, body: bytes) -> int:
    """Two turns: the second one goes on from the first, whose input is put before its own."""
    provider.answer(_ANSWER % (b"", _USAGE))
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    try:
        connection.request("POST", RESPONSES_PATH, body, headers)
        made = json.loads(connection.getresponse().read())
        more = {"model": "kept", "input": "more", "previous_response_id": made["id"]}
        connection.request("POST", RESPONSES_PATH, json.dumps(more), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
