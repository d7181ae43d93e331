"""`python -m benchmarks.lag [--megabytes 33]`: for how long a hostile body keeps the event loop from all others.

Each body goes to the gateway as a dry run and for real, while nobody else asks for anything, and each answer comes as
JSON and in an event. What is printed is the longest time for which the loop served nobody, by a probe on the loop
itself (`probed.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MappingProxyType
from typing import BinaryIO, Final

from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from benchmarks import exchanges
from benchmarks.machine import Cores, Missing
from benchmarks.probed import SIZE
from benchmarks.servers import Bench, Target

_TEXT_BYTES: Final = 8_000_000  # just below server.max_text_bytes
_VALUES: Final = 199_000  # just below server.max_json_values
_EVENT_BYTES: Final = 15_000_000  # just below upstreams.max_event_bytes
_REPEATS: Final = 5
_OPCODE, _LENGTH, _LONG, _MASK_BYTES = 0x0F, 0x7F, 126, 4  # of a WebSocket's frame (RFC 6455, 5.2)
WHOLE: Final = b'{"model":"m","input":"x"}'
DRY: Final = MappingProxyType({"x-gateway-dry-run": "true"})
STREAM: Final = b'{"model":"m","input":"x","stream":true}'


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies of up to `size` bytes, each made to cost as much as it can."""

    def array(piece: bytes, most: int) -> bytes:
        return b'{"model":"m","input":[%b0]}' % (piece * (most // len(piece)))

    def text(piece: bytes, most: int) -> bytes:
        return b'{"model":"m","input":"%b"}' % (piece * (most // len(piece)))

    image = b"data:image/png;base64,iVBORw0KGgo" + b"A" * (size - 1000)
    members = b",".join(b'"k%06d":%d' % (number, number) for number in range(_VALUES))
    yield "lists, refused", array(b"[[]],", size)
    yield "lists", array(b"[],", 3 * (_VALUES // 2))
    yield "marks of attachments", array(b'"data:;base64,",', size)
    yield "one image", b'{"model":"m","input":[{"type":"input_image","image_url":"%b"}]}' % image
    yield "text", text(b"hello wor ", _TEXT_BYTES)
    yield "line ends", text(b"\\n", _TEXT_BYTES)
    yield "escapes", text(b"\\u0041", _TEXT_BYTES)
    yield "half surrogates", text(b"\\ud800", _TEXT_BYTES)
    yield "quotes", text(b'\\"', _TEXT_BYTES)
    yield "names in a text", text(b'\\"model\\":', _TEXT_BYTES)
    yield "strings", array(b'"' + b"x" * 36 + b'",', 39 * _VALUES)
    yield "members", b'{"model":"m","input":"","metadata":{%b}}' % members
    yield "numbers", array(b"0.123456789012345678,", 21 * _VALUES)
    yield "nesting", b'{"model":"m","input":%b%b,"user":"%b"}' % (b"[" * 900, b"]" * 900, b"x" * 1_000_000)
    yield "members that carry files", b'{"model":"m","input":[{%b"a":1}]}' % (b'"data":"x",' * (_VALUES - 10))
    yield "spaces", b'{"model":"m","input":""%b}' % (b" " * _TEXT_BYTES)


USAGE: Final = b'"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}'


def answers(size: int) -> Iterator[tuple[str, bytes]]:
    """Responses of up to `size` bytes, each made to cost as much as it can."""

    def response(output: bytes) -> bytes:
        return b'{"id":"resp_1","object":"response","status":"completed","output":[%b],%b}' % (output, USAGE)

    numbers = b"[%b0]" % (b"0.0123456789," * 1535)
    yield "one image", response(b'{"type":"image_generation_call","result":"%b"}' % (b"A" * size))
    yield "lists", response(b"[]," * (size // 3) + b"0")
    yield "embeddings", response((numbers + b",") * (size // len(numbers)) + b"0")
    yield "escapes", response(b'"%b"' % (b"\\u0041" * (size // 6)))
    yield "quotes", response(b'"%b"' % (b'\\"' * (size // 2)))
    yield "members", response(b"{%b}" % b",".join(b'"k%07d":0' % number for number in range(size // 13)))
    yield "log probabilities", response(b'{"token":"a","logprob":-0.1,"bytes":[97]},' * (size // 42) + b"0")


class Provider:
    """Answers each request with what was set: `kind` and `body`, with `coding` if it is compressed. Mutable.

    A turn over a WebSocket is answered with the `messages` that were set.
    """

    def __init__(self) -> None:
        self.kind, self.body, self.coding = b"application/json", b"", b""
        self.messages: Sequence[bytes] = ()
        self.port = 0

    def start(self) -> None:
        """Serves in a thread until the process ends."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def answer(self, body: bytes, *, coding: bytes = b"") -> None:
        """Answers with JSON from now on."""
        self.kind, self.body, self.coding = b"application/json", body, coding

    def stream(self, events: bytes, *, coding: bytes = b"") -> None:
        """Answers with a stream of events from now on, written at once."""
        self.kind, self.body, self.coding = b"text/event-stream", events, coding

    def say(self, messages: Sequence[bytes]) -> None:
        """Answers each turn over a WebSocket with these messages from now on."""
        self.messages = messages

    def _serve(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            while lines.readline():
                length, key = 0, ""
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.lower().partition(b":")
                    if name == b"content-length":
                        length = int(value)
                    elif name == b"sec-websocket-key":
                        key = line.partition(b":")[2].decode().strip()
                if key:
                    self._take_turns(client, lines, key)
                    return
                while length:
                    length -= len(lines.read(min(length, 1 << 20)))
                head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (self.kind, len(self.body))
                coding = b"content-encoding: %b\r\n" % self.coding if self.coding else b""
                with contextlib.suppress(OSError):  # a gateway that has refused its answer
                    client.sendall(b"%b%b\r\n" % (head, coding))
                    client.sendall(self.body)

    def _take_turns(self, client: socket.socket, lines: BinaryIO, key: str) -> None:
        """Answers the turns of one WebSocket. Each message of the gateway is taken for one."""
        upgrade = f"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept_key(key)}"
        client.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n\r\n".encode())
        while head := lines.read(2):
            length = head[1] & _LENGTH
            if length >= _LONG:
                length = int.from_bytes(lines.read(2 if length == _LONG else 8))
            lines.read(_MASK_BYTES + length)
            if head[0] & _OPCODE == Opcode.TEXT:
                for message in self.messages:
                    client.sendall(Frame(Opcode.TEXT, message).serialize(mask=False))


def measure(gaps: mmap.mmap, exchange: Callable[[], int]) -> tuple[int, float, float]:
    """The status, how long the answer took, and the longest gap of the loop, both in ms: the best of a few."""
    best: tuple[int, float, float] = (0, 0.0, float("inf"))
    for _ in range(_REPEATS):
        time.sleep(0.1)
        gaps[:] = struct.pack("q", 0)
        began_s = time.perf_counter()
        status = exchange()
        took_ms = 1000 * (time.perf_counter() - began_s)
        time.sleep(0.02)
        gap_ms = struct.unpack("q", gaps[:])[0] / 1e6
        if gap_ms < best[2]:
            best = status, took_ms, gap_ms
    return best


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lag")
    parser.add_argument("--megabytes", type=int, default=33)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    size, only = options.megabytes * 1_000_000, options.only
    provider = Provider()
    provider.start()
    try:
        with Bench(Cores.of_this_machine()) as bench:
            target, path = bench.start_probed_gateway(provider.port)
            with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as gaps:
                for name, data, exchanges in rows(target, provider, size):
                    if only in name:
                        show(name, len(data), [measure(gaps, exchange) for exchange in exchanges])
    except Missing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    return 0


def rows(target: Target, provider: Provider, size: int) -> Iterator[tuple[str, bytes, Sequence[Callable[[], int]]]]:
    """Names, what is large, and the exchanges whose gaps stand beside each other."""
    answer = b'{"id":"resp_1","object":"response","status":"completed","output":[],%b}' % USAGE
    for name, body in bodies(size):
        provider.answer(answer)
        yield name, body, [partial(exchanges.ask, target, body, more=DRY), partial(exchanges.ask, target, body)]
    for (name, body), (_, response) in zip(answers(size), answers(min(size, _EVENT_BYTES)), strict=True):
        event = b'data: {"type":"response.completed","response":%b}\n\ndata: [DONE]\n\n' % response

        def whole(body: bytes = body) -> int:
            provider.answer(body)
            return exchanges.ask(target, WHOLE)

        def streamed(event: bytes = event) -> int:
            provider.stream(event)
            return exchanges.ask(target, STREAM)

        yield f"answer: {name}", body, [whole, streamed]
    yield from exchanges.rows(target, provider, size, min(size, _EVENT_BYTES))


def show(name: str, size: int, rows: Sequence[tuple[int, float, float]]) -> None:
    """Prints one line of the table."""
    cells = [f"{status} in {took_ms:,.0f} ms, {gap_ms:.1f} ms" for status, took_ms, gap_ms in rows]
    sys.stdout.write(f"| {name} | {size / 1e6:.1f} MB | {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
