"""TLS: who is trusted, who we are, and that the connection behaves as without."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.upstream.transport import FaultKind
from tests.contract.conftest import Connect
from tests.support.plain_authority import private_key, write_authority
from tests.support.scripted_upstream import answer, close, hang, request, reset, send, serve
from tests.support.upstream_exchange import fault, fetch, post
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_side(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_an_upstream_that_the_ca_file_vouches_for_is_reached_and_reused(
    connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    async with serve([request(), answer(b"1"), request(), answer(b"2")], tls=server_side(authority)) as upstream:
        transport = connect(upstream.url, ca_file=ca_file)
        assert await fetch(transport, b"x" * 300_000) == (200, b"1")
        assert await fetch(transport) == (200, b"2")
    assert upstream.accepted == 1
    assert upstream.requests[0].endswith(b"x" * 300_000)


async def test_the_server_is_told_the_name_that_is_wanted(
    connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    names: list[str | None] = []
    context = server_side(authority, "localhost")
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    async with serve([request(), answer(b"ok")], tls=context) as upstream:
        transport = connect(upstream.url.replace("127.0.0.1", "localhost"), ca_file=ca_file)
        assert await fetch(transport) == (200, b"ok")
    assert names == ["localhost"]


async def test_an_unknown_authority_is_refused(connect: Connect, authority: trustme.CA) -> None:
    async with serve([request(), answer(b"ok")], tls=server_side(authority)) as upstream:
        transport = connect(upstream.url)
        with fault(FaultKind.TLS, sent=False):
            await post(transport)
        assert transport.open_connections == 0
    assert upstream.requests == []


async def test_a_certificate_for_another_name_is_refused(connect: Connect, authority: trustme.CA, ca_file: str) -> None:
    async with serve([request(), answer(b"ok")], tls=server_side(authority, "other.example")) as upstream:
        with fault(FaultKind.TLS, sent=False):
            await post(connect(upstream.url, ca_file=ca_file))
    assert upstream.requests == []


async def test_an_upstream_that_speaks_no_tls_is_a_tls_fault(connect: Connect) -> None:
    async with serve([send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), hang()]) as upstream:
        with fault(FaultKind.TLS, sent=False):
            await post(connect(upstream.url.replace("http:", "https:")))


async def test_an_upstream_that_never_shakes_hands_is_a_connect_timeout(connect: Connect) -> None:
    async with serve([hang()]) as upstream:
        transport = connect(upstream.url.replace("http:", "https:"), connect_timeout_s=0.05)
        while not upstream.accepted:  # on a busy machine the time may be over before it is reached
            with fault(FaultKind.CONNECT_TIMEOUT, sent=False):
                await post(transport)
        await wait_until(lambda: upstream.open == 0 and transport.open_connections == 0)


async def test_cancelling_a_handshake_leaks_nothing(connect: Connect) -> None:
    async with serve([hang()]) as upstream:
        transport = connect(upstream.url.replace("http:", "https:"))
        sending = asyncio.create_task(post(transport))
        await wait_until(lambda: upstream.accepted == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await wait_until(lambda: upstream.gone == 1 and transport.open_connections == 0)


async def test_cancelling_in_any_turn_of_the_loop_leaks_nothing(
    connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    async with serve([request(), answer(b"ok"), hang()], tls=server_side(authority)) as upstream:
        transport = connect(upstream.url, ca_file=ca_file, max_connections=1)
        for turns in range(0, 60, 2):
            sending = asyncio.create_task(fetch(transport))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await wait_until(lambda: transport.open_connections == transport.idle_connections)
        await transport.close()
        await wait_until(lambda: upstream.open == 0)


async def test_a_client_certificate_is_shown(
    connect: Connect, authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    context = server_side(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    ours = authority.issue_cert("gateway.example")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ours.cert_chain_pems[0].write_to_path(str(certificate))
    ours.private_key_pem.write_to_path(str(key))
    async with serve([request(), answer(b"ok")], tls=context) as upstream:
        files = {"client_cert_file": str(certificate), "client_key_file": str(key)}
        assert await fetch(connect(upstream.url, ca_file=ca_file, **files)) == (200, b"ok")


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_body_that_ends_too_early_is_cut(
    connect: Connect, authority: trustme.CA, ca_file: str, ending: type
) -> None:
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    async with serve([request(), send(wire, b""), ending()], tls=server_side(authority)) as upstream:
        got = await post(connect(upstream.url, ca_file=ca_file))
        assert await got.read() == b"half"
        with fault(FaultKind.CUT, sent=True):
            await got.read()


async def test_a_body_without_a_length_ends_with_its_connection(
    connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    steps = [request(), send(b"HTTP/1.1 200 OK\r\n\r\nto the", b" end"), close()]
    async with serve(steps, tls=server_side(authority)) as upstream:
        assert await fetch(connect(upstream.url, ca_file=ca_file)) == (200, b"to the end")


@pytest.mark.parametrize("setting", ["ca_file", "client_cert_file"])
async def test_a_file_that_is_not_there_is_named_when_the_transport_is_built(
    connect: Connect, setting: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"TLS files of https://upstream\.invalid"):
        connect("https://upstream.invalid", **{setting: str(tmp_path / "absent.pem")})


def strict_context(cafile: str | None = None) -> ssl.SSLContext:
    """What Python 3.13 and later make by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if cafile is not None:
        context.load_verify_locations(cafile)
    return context


async def test_a_private_authority_that_is_not_strict_is_trusted_where_it_is_named(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, server = write_authority(tmp_path)
    monkeypatch.setattr(ssl, "create_default_context", strict_context)
    async with serve([request(), answer(b"ok")], tls=server) as upstream:
        assert await fetch(connect(upstream.url, ca_file=str(file))) == (200, b"ok")


def test_an_encrypted_client_key_is_refused_and_not_asked_about(connect: Connect, tmp_path: Path) -> None:
    """OpenSSL would ask for the password on the terminal."""
    file, _ = write_authority(tmp_path)
    key = tmp_path / "client-key.pem"
    key.write_bytes(private_key(ec.generate_private_key(ec.SECP256R1()), b"a password"))
    with pytest.raises(ValueError, match="encrypted"):
        connect("https://127.0.0.1:1", client_cert_file=str(file), client_key_file=str(key))
