"""Sockets to an upstream over TLS (wss): who is trusted, and that turns go over them as without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import WebSocketProvider
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, UPGRADES, spent


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def serving(authority: trustme.CA, name: str) -> AbstractContextManager[WebSocketProvider]:
    """The provider with a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return WebSocketProvider.serving(tls=context)


@pytest.fixture
def trusted(authority: trustme.CA) -> Iterator[WebSocketProvider]:
    with serving(authority, "127.0.0.1") as provider:
        yield provider


def over(
    store: Server, provider: WebSocketProvider, directory: Path, **upstream: Any
) -> AbstractContextManager[RunningGateway]:
    return running_gateway(store.url, provider.url, directory, upstream={**UPGRADES, **upstream})


def test_turns_go_over_one_encrypted_socket_that_the_ca_file_vouches_for(
    store: Server, trusted: WebSocketProvider, tmp_path: Path, ca_file: str
) -> None:
    with over(store, trusted, tmp_path, ca_file=ca_file) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            for text in ("x" * 300_000, "y"):
                status, last = socket.turn({"model": MODEL, "input": text})
                assert (status, last["response"]["output"][0]["content"][0]["text"]) == (200, "hello")
        assert [turn.fields["input"][:1] for turn in trusted.turns] == ["x", "y"]
        assert len(trusted.upgrades) == 1
        assert trusted.upgrades[0]["authorization"] == "Bearer upstream-key-of-the-tests"
        assert not trusted.posts
        assert spent(gateway, key) == (2 * COST_NANO_USD, 0)


def test_an_unknown_authority_is_sent_neither_a_key_nor_a_turn(
    store: Server, trusted: WebSocketProvider, tmp_path: Path
) -> None:
    refused(store, trusted, tmp_path)


def test_a_certificate_for_another_name_is_sent_neither_a_key_nor_a_turn(
    store: Server, authority: trustme.CA, tmp_path: Path, ca_file: str
) -> None:
    with serving(authority, "other.example") as provider:
        refused(store, provider, tmp_path, ca_file=ca_file)


def refused(store: Server, provider: WebSocketProvider, directory: Path, **upstream: Any) -> None:
    """The turn fails before anything is sent, by POST too, and costs nothing."""
    with over(store, provider, directory, **upstream) as gateway:
        key = gateway.new_key()
        with Socket(gateway.url, key.text) as socket:
            status, last = socket.turn({"model": MODEL, "input": "x"})
            assert (status, last["type"], last["error"]["code"]) == (502, "error", "upstream_unreachable"), last
        assert not provider.upgrades
        assert not provider.turns
        assert not provider.posts
        assert spent(gateway, key) == (0, 0)
