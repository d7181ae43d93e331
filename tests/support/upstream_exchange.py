"""Short forms of what most contract tests do: send a request, read to the end, expect a fault."""

import contextlib
from collections.abc import Iterator

import pytest

from gateway.upstream.transport import Answer, FaultKind, Transport, UpstreamFault

HEADERS = ((b"authorization", b"Bearer k"), (b"accept-encoding", b"identity"))


async def post(transport: Transport, body: bytes = b"{}", target: bytes = b"/v1/responses") -> Answer:
    return await transport.send(b"POST", target, list(HEADERS), body)


async def read_all(answer: Answer) -> bytes:
    pieces = [answer.read_nowait()]
    while data := await answer.read():
        pieces.append(data)
    return b"".join(pieces)


async def fetch(transport: Transport, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await post(transport, body)
    return answer.status, await read_all(answer)


@contextlib.contextmanager
def fault(*kinds: FaultKind, sent: bool) -> Iterator[None]:
    with pytest.raises(UpstreamFault) as caught:
        yield
    assert caught.value.kind in kinds
    assert caught.value.sent is sent
