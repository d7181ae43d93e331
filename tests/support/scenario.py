"""A gateway between a client and an upstream that a test scripts: all on real sockets.

    async with open_scenario(valkey, tmp_path, [request(), stream(created(), delta("a")), reset()]) as scenario:
        client = await scenario.ask(stream=True)      a raw client: what it sees is bytes
        scenario.sdk()                                the official one: what it sees is its documented exception
        await scenario.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=1)

`ended` holds what every ending must keep: the upstream's socket is closed at once, the journal has one resolution with
the right charge, nothing is held, one log line was written, and, the key's concurrency being one, the next request
is admitted.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import openai

from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.journals import journal_entries
from tests.support.scripted_upstream import Peer, Step, Upstream, answer, request, send, serve
from tests.support.servers import Server
from tests.support.waiting import wait_until

INPUT_NANO_USD: Final = 1_000  # of one token, by the prices of tests.support.gateway
OUTPUT_NANO_USD: Final = 10_000
MODEL: Final = "test/model"
EVENT_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON: Final = b"content-type: application/json\r\n"
DONE: Final = b"data: [DONE]\n\n"
READ_S: Final = 30.0
PROMPT_NOTICE_S: Final = 5.0  # generous for a busy machine, far below every timeout that could close a socket instead


def event(kind: str, number: int, **fields: Any) -> bytes:
    """One SSE event as providers write it."""
    data = json.dumps({"type": kind, "sequence_number": number, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def response(status: str, **fields: Any) -> dict[str, Any]:
    """A response object, as far as these tests need one."""
    base = {"id": "resp_upstream1", "object": "response", "created_at": 1, "model": MODEL, "status": status}
    return {**base, "output": [], "usage": None, "error": None, "parallel_tool_calls": True, "tools": [], **fields}


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def created() -> bytes:
    return event("response.created", 0, response=response("in_progress"))


def delta(text: str, number: int = 1) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return event("response.output_text.delta", number, delta=text, **place)


def completed(number: int = 2, *, input_tokens: int = 100, output_tokens: int = 7) -> bytes:
    return event("response.completed", number, response=response("completed", usage=usage(input_tokens, output_tokens)))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*events: bytes) -> Step:
    """The head of an event stream, and events as they are given; the body goes on."""
    return send(EVENT_STREAM + b"".join(map(chunk, events)))


def more(*events: bytes) -> Step:
    return send(b"".join(map(chunk, events)))


def end_of_body() -> Step:
    return send(b"0\r\n\r\n")


def whole(input_tokens: int = 100, output_tokens: int = 7) -> Step:
    """A whole JSON answer with usage."""
    return answer(json.dumps(response("completed", usage=usage(input_tokens, output_tokens))).encode(), headers=JSON)


async def _answer_all(peer: Peer) -> None:
    read, reply = request(), whole()
    while True:
        await read(peer)
        await reply(peer)


GOOD: Final[tuple[Step, ...]] = (_answer_all,)
"""A connection on which every request is answered."""


def body_of(*, stream: bool = False, **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": "hello", "stream": stream, "max_output_tokens": 50, **fields}).encode()


def estimate_nano_usd(body: bytes, output_tokens: int) -> int:
    """The settlement policy's estimate for these requests: a token for four bytes in, and what was relayed."""
    return -(-len(body) // 4) * INPUT_NANO_USD + output_tokens * OUTPUT_NANO_USD


@dataclass
class RawClient:
    """One request on a socket of its own, and what came back so far (mutable)."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    @classmethod
    async def connect(cls, url: str) -> Self:
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> bytes:
        """Everything so far, once `mark` is in it."""
        async with asyncio.timeout(READ_S):
            while mark not in self.received:
                data = await self.reader.read(65536)
                assert data, f"the gateway closed before {mark!r}: {bytes(self.received)!r}"
                self.received += data
        return bytes(self.received)

    async def read_all(self) -> bytes:
        """Everything up to the gateway's end of the connection."""
        async with asyncio.timeout(READ_S):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    self.received += data
        return bytes(self.received)

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        """A header of the answer."""
        head = bytes(self.received).partition(b"\r\n\r\n")[0].decode("latin-1")
        lines = (line.partition(":") for line in head.split("\r\n")[1:])
        return next((value.strip() for key, _, value in lines if key.lower() == name), None)

    @property
    def body(self) -> bytes:
        """The answer's body, its chunked framing taken off."""
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head.lower():
            return rest
        out = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            out, rest = out + rest[:length], rest[length + 2 :]
        return out

    def leave(self) -> None:
        """Closes at once, as a program that was killed does."""
        self.writer.transport.abort()


@dataclass
class Scenario:
    """The parts of one test. `last_body`: what `ask` sent last (mutable)."""

    gateway: RunningGateway
    upstream: Upstream
    store: Server
    key: NewKey
    log: io.StringIO
    last_body: bytes = b""
    clients: list[RawClient] = field(default_factory=list)
    sdks: list[openai.AsyncOpenAI] = field(default_factory=list)

    @property
    def authorization(self) -> str:
        """The header with the key, where a test gives no other."""
        return f"authorization: Bearer {self.key.text}\r\n"

    async def connect(self) -> RawClient:
        """A connection to the gateway, closed when the test ends."""
        client = await RawClient.connect(self.gateway.url)
        self.clients.append(client)
        return client

    async def ask(
        self,
        body: bytes | None = None,
        *,
        headers: str = "",
        path: str = "/v1/responses",
        authorization: str = "",
        content_type: str = "application/json",
        **fields: Any,
    ) -> RawClient:
        """Sends one request on a connection of its own."""
        self.last_body = body_of(**fields) if body is None else body
        client = await self.connect()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-type: {content_type}\r\n"
            f"{authorization or self.authorization}{headers}content-length: {len(self.last_body)}\r\n\r\n"
        )
        await client.send(head.encode() + self.last_body)
        return client

    def sdk(self, **options: Any) -> openai.AsyncOpenAI:
        """The official SDK, closed when the test ends."""
        self.sdks.append(self.gateway.async_sdk(self.key, **options))
        return self.sdks[-1]

    async def stream_with_sdk(self, seen: list[str]) -> None:
        """Streams with the official SDK; `seen` has the types of the events that came before it raised."""
        async for one in await self.sdk().responses.create(model=MODEL, input="hello", stream=True):
            seen.append(one.type)  # noqa: PERF401 - what came before an exception counts

    def log_lines(self) -> list[dict[str, Any]]:
        """The log lines of requests."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == "request"]

    def journal(self) -> list[dict[str, str]]:
        """The journal's resolutions of holds, oldest first."""
        entries = journal_entries(self.store, self.key.team.id)
        return [entry for entry in entries if entry["type"] in ("settle", "void", "expire")]

    async def logged(self, requests: int) -> None:
        """So many requests have ended."""
        await wait_until(lambda: len(self.log_lines()) >= requests, what="the request is logged")

    async def settled(self) -> list[dict[str, str]]:
        """The journal's resolutions, once the request has been logged."""
        await wait_until(lambda: bool(self.log_lines()), what="the request is logged")
        return self.journal()

    async def drains(self) -> None:
        """The gateway has noticed that a client left, and reads on."""
        handler = self.gateway.services.handler
        await wait_until(lambda: any(one.ends_later for one in handler.running), what="the leaving is noticed")

    def attempts(self) -> list[dict[str, Any]]:
        """What the journal keeps of attempts that were not charged, oldest first."""
        found = journal_entries(self.store, self.key.team.id)
        return [json.loads(entry["attempt"]) for entry in found if entry["type"] == "attempt"]

    async def upstream_left(self, *, number: int = 1) -> None:
        """The upstream's first connections are closed, promptly."""
        await wait_until(lambda: self.upstream.gone >= number, timeout_s=PROMPT_NOTICE_S, what="the socket is closed")

    async def ended(
        self,
        *,
        outcome: str,
        settled_by: str = "-",
        output_tokens: int = 0,
        usage: tuple[int, int] | None = None,
        **log: Any,
    ) -> dict[str, Any]:
        """Holds what every ending keeps; gives the log line. `output_tokens`: of an estimate; `usage`: learnt."""
        await wait_until(lambda: bool(self.log_lines()), what="the request is logged")
        cost = 0
        if settled_by == "estimate":
            cost = estimate_nano_usd(self.last_body, output_tokens)
        elif usage is not None:
            cost = usage[0] * INPUT_NANO_USD + usage[1] * OUTPUT_NANO_USD
        (line,) = self.log_lines()
        assert (line["outcome"], line["settled_by"]) == (outcome, settled_by), line
        assert {name: line.get(name) for name in log} == log
        (entry,) = self.journal()
        kind = "void" if settled_by == "-" else "settle"
        assert (entry["type"], entry["by"], int(entry["amount"])) == (kind, settled_by, -cost)
        assert entry["id"] == line["request_id"]
        assert self.gateway.services.ledger.open_holds == 0
        assert self.gateway.balance(self.key).held == 0
        await self.next_is_admitted()
        return line

    async def next_is_admitted(self) -> None:
        """The slot is free: the key's concurrency is one."""
        client = await self.ask()
        await client.read_all()
        assert client.status == 200, client.received
        await wait_until(lambda: len(self.log_lines()) == 2, what="the second request is logged")


@contextlib.asynccontextmanager
async def open_scenario(
    store: Server,
    data_dir: Path,
    /,
    *scripts: Sequence[Step],
    limits: dict[str, int] | None = None,
    assumed: dict[str, Any] | None = None,
    **sections: Any,
) -> AsyncIterator[Scenario]:
    """One script for the first connection to the upstream, and so on; afterwards every request is answered.

    `limits` are the key's; `assumed` is the section [limits] of the settings.
    """
    log = io.StringIO()
    sections = {"log": {"format": "json", "level": "info"}, "limits": assumed or {}, **sections}
    async with serve(*[(*script, *GOOD) for script in scripts], GOOD) as upstream:
        running = running_gateway(store.url, f"{upstream.url}/v1", data_dir, log_to=log, **sections)
        gateway = await asyncio.to_thread(running.__enter__)
        try:
            key = gateway.new_key(key_limits={"concurrency": 1} if limits is None else limits)
            scenario = Scenario(gateway, upstream, store, key, log)
            try:
                yield scenario
            finally:
                for client in scenario.clients:
                    client.leave()
                for sdk in scenario.sdks:
                    await sdk.close()
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
