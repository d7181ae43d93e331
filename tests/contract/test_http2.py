"""HTTP/2, on real TLS sockets: its transport keeps the contract, too, and each fault has its kind."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from h2.errors import ErrorCodes

from gateway.concurrency.disk_body import DiskBody, Edit, SentBody
from gateway.concurrency.off_loop import OffLoop
from gateway.upstream.http2_pool import Http2Transport
from gateway.upstream.transport import Answer, FaultKind, Transport
from tests.contract.conftest import Connect
from tests.contract.http2 import Stream, Upstream, json_answer, serve_http2
from tests.support.scripted_upstream import Upstream as ScriptedUpstream
from tests.support.scripted_upstream import answer, request, serve
from tests.support.upstream_exchange import fault, fetch, post, read_all
from tests.support.waiting import wait_until

Connected = Callable[[Upstream | ScriptedUpstream], Transport]


@pytest.fixture(params=["direct", "proxied"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def to(connect: Connect, authority: trustme.CA, tmp_path: Path) -> Callable[..., Transport]:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def build(upstream: Upstream | ScriptedUpstream, **settings: Any) -> Transport:
        return connect(upstream.url, ca_file=str(tmp_path / "ca.pem"), http2=True, **settings)

    return build


async def arrives(upstream: Upstream, number: int = 1) -> Stream:
    await wait_until(lambda: len(upstream.streams) >= number)
    return upstream.streams[number - 1]


async def begun(transport: Transport, upstream: Upstream, number: int = 1) -> tuple[Answer, Stream]:
    """An answer whose head has come, and the upstream's end of it."""
    sending = asyncio.create_task(post(transport))
    stream = await arrives(upstream, number)
    stream.head()
    return await sending, stream


def may_send(stream: Stream, size: int) -> bool:
    """Whether the client's windows let the upstream send so much."""
    return stream.connection.state.local_flow_control_window(stream.id) >= size


async def test_a_post_with_a_body_is_answered(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls, json_answer) as upstream:
        answer = await post(to(upstream), b"x" * 300_000)
        assert (answer.status, await read_all(answer)) == (200, b'{"echo": 300000}')
        [stream] = upstream.streams
    assert stream.body == b"x" * 300_000
    assert stream.headers[b":method"] == b"POST"
    assert stream.headers[b":path"] == b"/v1/responses"
    assert stream.headers[b":authority"] == upstream.url.removeprefix("https://").encode()
    assert stream.headers[b"authorization"] == b"Bearer k"
    assert (b"x-kept", b"yes") in answer.headers


async def test_a_body_on_disk_arrives_whole_with_its_place_changed(
    to: Connected, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    body, off_loop = DiskBody(tmp_path), OffLoop(1)
    body.write(bytes(range(256)) * 2_000)
    try:
        async with serve_http2(tls, json_answer) as upstream:
            sent = SentBody(body, off_loop, Edit(256, 512, b"other"))
            answer = await to(upstream).send(b"POST", b"/v1/x", [], sent)
            assert answer.status == 200
            assert await read_all(answer)
            [stream] = upstream.streams
        assert stream.body == bytes(range(256)) + b"other" + bytes(range(256)) * 1_998
    finally:
        body.close()
        off_loop.close()


async def test_a_body_on_disk_that_cannot_be_read_resets_its_stream_alone(
    to: Connected, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    body, off_loop = DiskBody(tmp_path), OffLoop(1)
    body.write(b"x" * 1_000_000)
    body.close()
    try:
        async with serve_http2(tls, json_answer) as upstream:
            transport = to(upstream)
            with fault(FaultKind.BODY_LOST, sent=True):
                await transport.send(b"POST", b"/v1/x", [], SentBody(body, off_loop))
            await wait_until(lambda: upstream.resets == [ErrorCodes.CANCEL], what="the stream is reset")
            assert (await post(transport)).status == 200
            assert upstream.accepted == 1
    finally:
        off_loop.close()


@pytest.mark.direct
async def test_an_upstream_that_reads_slower_than_its_windows_allow_is_waited_for(
    to: Connected, tls: ssl.SSLContext
) -> None:
    data = b"x" * 30_000_000
    async with serve_http2(tls, json_answer, window_bytes=2**31 - 1) as upstream:
        transport = to(upstream)
        assert (await post(transport)).status == 200  # its windows are known
        upstream.pause_reading()
        sending = asyncio.create_task(post(transport, data))
        await wait_until(lambda: unsent_bytes(transport) > 0, what="it has begun")
        await asyncio.sleep(0.3)  # nothing tells that no more is written
        assert unsent_bytes(transport) < 1_000_000
        upstream.resume_reading()
        assert (await sending).status == 200
        assert upstream.streams[-1].body == data


def unsent_bytes(transport: Transport) -> int:
    """How much of what was written to its one connection waits in memory."""
    (connection,) = cast("Http2Transport", transport)._connections  # noqa: SLF001 - nothing outside tells how much waits
    wire = connection._transport  # noqa: SLF001 - the same
    return 0 if wire is None else wire.get_write_buffer_size()


async def test_a_streamed_body_arrives_unchanged_and_at_once(to: Connected, tls: ssl.SSLContext) -> None:
    frames = [b"data: 1\n\n", b"data: " + b"2" * 16_000 + b"\n\n", b"", b"data: [DONE]\n\n"]
    async with serve_http2(tls) as upstream:
        answer, stream = await begun(to(upstream), upstream)
        stream.data(frames[0])
        assert await answer.read() == frames[0]
        stream.data(*frames[1:])
        stream.end()
        assert await read_all(answer) == b"".join(frames[1:])
        assert await answer.read() == b""
        assert upstream.resets == []


async def test_requests_at_a_time_share_one_connection(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        (one, first), (two, second) = await begun(transport, upstream), await begun(transport, upstream, 2)
        for stream, text in ((second, b"2"), (first, b"1")):
            stream.data(text)
            stream.end()
        assert (await read_all(one), await read_all(two)) == (b"1", b"2")
        assert upstream.accepted == transport.open_connections == transport.idle_connections == 1


async def test_a_stream_that_is_reset_in_its_body_is_cut_and_the_others_go_on(
    to: Connected, tls: ssl.SSLContext
) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        (one, first), (two, second) = await begun(transport, upstream), await begun(transport, upstream, 2)
        first.data(b"half")
        assert await one.read() == b"half"
        first.reset(ErrorCodes.INTERNAL_ERROR)
        with fault(FaultKind.CUT, sent=True):
            await one.read()
        second.data(b"whole")
        second.end()
        assert await read_all(two) == b"whole"


async def test_a_connection_that_dies_in_a_body_is_cut(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        answer, stream = await begun(transport, upstream)
        stream.data(b"half")
        assert await answer.read() == b"half"
        stream.drop()
        with fault(FaultKind.CUT, sent=True):
            await answer.read()
        await wait_until(lambda: transport.open_connections == 0)


async def test_goaway_for_an_error_in_a_body_is_cut(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        answer, stream = await begun(transport, upstream)
        stream.goaway(stream.id, ErrorCodes.INTERNAL_ERROR)
        with fault(FaultKind.CUT, sent=True):
            await answer.read()
        await wait_until(lambda: transport.open_connections == 0)


@pytest.mark.parametrize("pieces", [1, 3])
async def test_goaway_lets_what_has_begun_come_to_its_end_and_the_next_request_takes_a_new_connection(
    to: Connected, tls: ssl.SSLContext, pieces: int
) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        answer, stream = await begun(transport, upstream)
        stream.goaway(stream.id)
        stream.data(b"first")
        assert await answer.read() == b"first"
        other, second = await begun(transport, upstream, 2)
        assert upstream.accepted == 2
        for number in range(pieces):
            stream.data(b"%d" % number)
        stream.end()
        assert await read_all(answer) == b"".join(b"%d" % number for number in range(pieces))
        await wait_until(lambda: transport.open_connections == 1)
        second.end()
        assert await read_all(other) == b""


async def test_goaway_that_disowns_a_stream_it_has_begun_is_cut(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls, json_answer) as upstream:
        transport = to(upstream)
        assert await fetch(transport) == (200, b'{"echo": 2}')
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        (one, first), (two, second) = await begun(transport, upstream), await begun(transport, upstream, 2)
        second.goaway(first.id)
        with fault(FaultKind.CUT, sent=True):
            await two.read()
        first.data(b"whole")
        first.end()
        assert await read_all(one) == b"whole"


async def test_bytes_that_are_no_http2_are_a_protocol_fault(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        answer, stream = await begun(transport, upstream)
        stream.raw(b"\0\0\1" + b"\0" * 6 + b"x")  # DATA on stream 0
        with fault(FaultKind.PROTOCOL, sent=True):
            await answer.read()
        await wait_until(lambda: transport.open_connections == 0)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_stream_that_is_reset_before_its_head_is_not_repeated(
    to: Connected, tls: ssl.SSLContext, *, warm: bool
) -> None:
    def reply(stream: Stream) -> None:
        if warm and stream.id == 1:
            json_answer(stream)
        else:
            stream.reset(ErrorCodes.INTERNAL_ERROR)

    async with serve_http2(tls, reply) as upstream:
        transport = to(upstream)
        if warm:
            await fetch(transport)
        with fault(FaultKind.RESET, sent=True):
            await post(transport)
        assert len(upstream.streams) == 1 + warm


async def test_a_refused_stream_counts_as_not_sent(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls, lambda stream: stream.reset(ErrorCodes.REFUSED_STREAM)) as upstream:
        with fault(FaultKind.RESET, sent=False):
            await post(to(upstream))


@pytest.mark.parametrize(("last_stream_id", "sent"), [(0, False), (1, True)])
async def test_goaway_before_a_head_says_whether_work_may_have_begun(
    to: Connected, tls: ssl.SSLContext, last_stream_id: int, *, sent: bool
) -> None:
    code = ErrorCodes.ENHANCE_YOUR_CALM
    async with serve_http2(tls, lambda stream: stream.goaway(last_stream_id, code)) as upstream:
        transport = to(upstream)
        with fault(FaultKind.RESET, sent=sent):
            await post(transport)
        assert len(upstream.streams) == 1
        await wait_until(lambda: transport.open_connections == 0)


@pytest.mark.parametrize("leave", [lambda stream: stream.goaway(1), Stream.drop])
async def test_a_used_connection_that_is_given_up_is_replaced(
    to: Connected, tls: ssl.SSLContext, leave: Callable[[Stream], None]
) -> None:
    turns = iter((json_answer, leave, json_answer))

    def reply(stream: Stream) -> None:
        next(turns)(stream)

    async with serve_http2(tls, reply) as upstream:
        transport = to(upstream)
        assert await fetch(transport) == (200, b'{"echo": 2}')
        assert await fetch(transport) == (200, b'{"echo": 2}')
        assert upstream.accepted == 2
        await wait_until(lambda: transport.open_connections == 1)


async def test_an_aborted_answer_is_reset_so_that_the_upstream_works_no_longer(
    to: Connected, tls: ssl.SSLContext
) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        answer, stream = await begun(transport, upstream)
        stream.data(b"some")
        answer.abort()
        await wait_until(lambda: upstream.resets == [ErrorCodes.CANCEL])
        assert transport.open_connections == 1


async def test_a_cancelled_request_ends_at_the_upstream_too(to: Connected, tls: ssl.SSLContext) -> None:
    async with serve_http2(tls) as upstream:
        sending = asyncio.create_task(post(to(upstream)))
        await arrives(upstream)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        # Cancelled in the middle of a write, the reset cannot be written behind it: then the connection is closed.
        await wait_until(lambda: upstream.resets == [ErrorCodes.CANCEL] or upstream.gone == 1)


@pytest.mark.parametrize("setting", ["first_byte_timeout_s", "chunk_timeout_s"])
async def test_a_silent_stream_is_reset(to: Callable[..., Transport], tls: ssl.SSLContext, setting: str) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream, **{setting: 0.5})  # the first byte's holds for the handshakes, too
        if setting == "first_byte_timeout_s":
            with fault(FaultKind.FIRST_BYTE_TIMEOUT, sent=True):
                await post(transport)
        else:
            answer, _ = await begun(transport, upstream)
            with fault(FaultKind.CHUNK_TIMEOUT, sent=True):
                await answer.read()
        await wait_until(lambda: upstream.resets == [ErrorCodes.CANCEL])


async def test_unread_bytes_of_aborted_answers_do_not_use_up_the_window_of_the_connection(
    to: Connected, tls: ssl.SSLContext
) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream)
        for number in range(1, 5):  # each sends all that a stream may hold unread
            answer, stream = await begun(transport, upstream, number)
            await wait_until(partial(may_send, stream, 2**18))
            stream.data(*[b"x" * 16_384] * 16)
            await answer.read()
            answer.abort()
            await wait_until(lambda: len(upstream.resets) >= len(upstream.streams))
        assert upstream.accepted == 1


async def test_what_nobody_reads_is_bounded_and_holds_up_no_other_stream(
    to: Callable[..., Transport], tls: ssl.SSLContext
) -> None:
    async with serve_http2(tls) as upstream:
        transport = to(upstream, max_unread_bytes=65_536)
        answers = []
        for number in range(1, 41):  # more in all than a connection's first window
            answer, stream = await begun(transport, upstream, number)
            await wait_until(partial(may_send, stream, 65_536))
            stream.data(*[b"x" * 16_384] * 4)
            assert not may_send(stream, 1)
            answers.append(answer)
        assert upstream.accepted == 1
        for answer in answers:
            answer.abort()


async def test_an_upstream_that_speaks_only_http1_is_served_by_it(to: Connected, tls: ssl.SSLContext) -> None:
    tls.set_alpn_protocols(["http/1.1"])
    async with serve([], [request(), answer(b"1"), request(), answer(b"2")], tls=tls) as upstream:
        transport = to(upstream)
        assert await fetch(transport) == (200, b"1")
        assert await fetch(transport) == (200, b"2")
        assert upstream.accepted == 2
