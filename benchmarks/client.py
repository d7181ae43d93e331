"""A client for what wrk does not measure: single latencies, the time to the first event, thousands of open streams.

latencies(targets, ...)    an open loop, a second for each target in turn: times to the answer or to the first event
hold_streams(target, ...)  one event loop, one connection per stream: when they opened, and how late their events were
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import uvloop

from benchmarks.load import request_body
from benchmarks.servers import Target

_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_STAMP: Final = re.compile(rb'"at_ns":(\d{20})')
_LAST_CHUNK: Final = b"0\r\n\r\n"
_OPENING_AT_ONCE: Final = 500


def wire(target: Target, body: bytes) -> bytes:
    """Returns a request as bytes."""
    head = (
        f"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Caller(asyncio.Protocol):
    """One keep-alive connection. Its future is the time at which the answer, or the first event, was there."""

    def __init__(self, request: bytes, *, stream: bool) -> None:
        self._request = request
        self._stream = stream
        self._data = b""
        self._first: float | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RuntimeError(f"the connection ended: {exc}, {self._data[:300]!r}"))

    def ask(self) -> asyncio.Future[float]:
        self._data, self._first = b"", None
        self._answer = asyncio.get_running_loop().create_future()
        cast("asyncio.WriteTransport", self._transport).write(self._request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        self._data += data
        if self._first is None and b"\n\n" in self._data:
            self._first = now_s
        if not self._whole() or self._answer is None or self._answer.done():
            return
        if self._data.startswith(b"HTTP/1.1 200"):
            self._answer.set_result(self._first if self._stream and self._first is not None else now_s)
        else:
            self._answer.set_exception(RuntimeError(f"refused: {self._data[:300]!r}"))

    def _whole(self) -> bool:
        if self._stream:
            return self._data.endswith(_LAST_CHUNK)
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return bool(found) and (len(body) >= int(length[1]) if length is not None else body.endswith(_LAST_CHUNK))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _OpenLoop:
    """Sends requests to one target when they are due, however late the answers before are. State: idle connections."""

    def __init__(self, target: Target, *, stream: bool) -> None:
        self._target = target
        self._request = wire(target, request_body("stream" if stream else "json", stream=stream))
        self._stream = stream
        self._idle: list[_Caller] = []

    async def ask(self, due_s: float) -> float:
        """Returns the seconds from when the request was due: a late answer delays no other (coordinated omission)."""
        if self._idle:
            caller = self._idle.pop()
        else:
            _, caller = await asyncio.get_running_loop().create_connection(
                lambda: _Caller(self._request, stream=self._stream), "127.0.0.1", self._target.port
            )
        answered_s = await caller.ask()
        self._idle.append(caller)
        return answered_s - due_s

    async def second(self, rps: float) -> list[float]:
        """One second of requests."""
        begun_s, asked = time.perf_counter() + 0.01, list[asyncio.Task[float]]()
        for number in range(int(rps)):
            due_s = begun_s + number / rps
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            asked.append(asyncio.create_task(self.ask(due_s)))
        return await asyncio.gather(*asked)

    def close(self) -> None:
        """Closes the connections."""
        for caller in self._idle:
            caller.close()


async def _latencies(targets: Sequence[Target], *, stream: bool, rps: float, seconds: float) -> dict[str, list[float]]:
    loops = {target.name: _OpenLoop(target, stream=stream) for target in targets}
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for one in loops.values():
        await one.second(rps)  # connections open, and what is warm is warm
    for _ in range(max(1, int(seconds))):
        for name, one in loops.items():
            found[name] += await one.second(rps)
    for one in loops.values():
        one.close()
    return found


def latencies(targets: Sequence[Target], *, stream: bool, rps: float, seconds: float) -> dict[str, list[float]]:
    """Sends `rps` requests per second, a second to each target in turn. Returns seconds by the target's name."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_latencies(targets, stream=stream, rps=rps, seconds=seconds))


@dataclass(slots=True)
class Held:
    """The result of the streams. Times are in seconds; `late_ms` covers the events that came while all were open."""

    opened: int = 0
    ended: int = 0
    open_s: float = 0.0
    events: int = 0
    late_ms: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    cpu_share: float = 0.0


class _Stream(asyncio.Protocol):
    """The client of one stream."""

    def __init__(self, request: bytes, held: Held, watch: _Watch) -> None:
        self._request = request
        self._held = held
        self._watch = watch
        self._transport: asyncio.BaseTransport | None = None
        self._begun = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]  # a stream's transport, as uvloop makes it

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self._begun and b"data: " in data:
            self._begun = True
            self._held.opened += 1
            self._watch.opened(self._held)
        if self._watch.all_open:
            for stamp in _STAMP.findall(data):
                self._held.events += 1
                self._held.late_ms.append((now_ns - int(stamp)) / 1e6)
        self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
        if self._tail == _LAST_CHUNK and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._watch.all_open = False  # events that arrive while the streams end do not count
        self._held.ended += 1
        if self._held.ended == self._watch.count:
            self._watch.over.set()


class _Watch:
    """Notices when all streams are open, and when all are over."""

    def __init__(self, count: int, target: Target) -> None:
        self.count = count
        self.over = asyncio.Event()
        self.all_open = False
        self._target = target
        self._started = time.perf_counter()
        self._cpu_s = 0.0
        self._open_at = 0.0

    def opened(self, held: Held) -> None:
        if held.opened == self.count:
            self.all_open = True
            self._open_at = time.perf_counter()
            held.open_s = self._open_at - self._started
            self._cpu_s = self._target.process.cpu_s()
            asyncio.get_running_loop().call_later(3, self.look, held)

    def look(self, held: Held) -> None:
        """Measures memory and CPU while all streams are open."""
        held.rss_bytes = self._target.process.rss_bytes()
        held.cpu_share = (self._target.process.cpu_s() - self._cpu_s) / (time.perf_counter() - self._open_at)


async def _hold(target: Target, count: int, ticks: int) -> Held:
    request = wire(target, request_body("ticks", stream=True, max_output_tokens=ticks))
    loop, held, watch = asyncio.get_running_loop(), Held(), _Watch(count, target)
    gate = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def connect() -> None:
        async with gate:
            await loop.create_connection(lambda: _Stream(request, held, watch), "127.0.0.1", target.port)

    await asyncio.gather(*(connect() for _ in range(count)))
    async with asyncio.timeout(ticks + 60):
        await watch.over.wait()
    return held


def hold_streams(target: Target, count: int, ticks: int) -> Held:
    """Opens `count` streams of one event per second and `ticks` events, and follows them to their end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_hold(target, count, ticks))
