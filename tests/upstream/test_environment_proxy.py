"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY: which upstreams they are for, and that requests then go that way."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.config.upstream_settings import UpstreamSettings
from gateway.upstream.pool import NativeTransport
from gateway.worker.parts import build_upstream
from tests.support.scripted_upstream import answer, head, request, serve
from tests.support.upstream_exchange import fetch
from tests.upstream.test_forward_proxies import tunnel_to

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # the machine that runs the tests may be behind a proxy itself
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")


def upstream(base_url: str = "https://upstream.example/v1", **values: Any) -> UpstreamSettings:
    return UpstreamSettings.model_validate({"base_url": base_url, "api_keys": ("env:TEST_PROVIDER_KEY",), **values})


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_the_environment_s_proxy_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert upstream().effective_proxy() is None
    monkeypatch.setenv(name, PROXY)
    assert upstream().effective_proxy() == PROXY


def test_the_lower_case_name_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    monkeypatch.setenv("https_proxy", PROXY)
    assert upstream().effective_proxy() == PROXY


def test_each_scheme_has_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    assert upstream("https://upstream.example").effective_proxy() is None
    assert upstream("http://upstream.example").effective_proxy() == PROXY


def test_a_proxy_without_a_scheme_is_an_http_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert upstream().effective_proxy() == PROXY


@pytest.mark.parametrize(
    ("no_proxy", "host", "proxied"),
    [
        ("upstream.example", "upstream.example", False),
        ("other.example, UPSTREAM.example", "upstream.example", False),
        (".example", "upstream.example", False),
        ("upstream.example:8443", "upstream.example:8443", False),
        ("upstream.example:8443", "upstream.example", True),
        ("stream.example", "upstream.example", True),
        ("2001:db8::1", "[2001:db8::1]:8443", False),
        ("192.0.2.7", "192.0.2.7", False),
        ("*", "upstream.example", False),
        ("", "upstream.example", True),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_takes_hosts_out(
    monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str, host: str, *, proxied: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv(name, no_proxy)
    assert upstream(f"https://{host}/v1").effective_proxy() == (PROXY if proxied else None)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "a.localhost", "127.0.0.1:1", "127.8.9.1", "[::1]:1"])
def test_an_upstream_on_this_machine_needs_no_proxy_unless_one_is_configured(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    assert upstream(f"https://{host}/v1").effective_proxy() is None
    assert upstream(f"https://{host}/v1", proxy=PROXY).effective_proxy() == PROXY


def test_the_configured_proxy_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert upstream(proxy=PROXY).effective_proxy() == PROXY


async def test_an_empty_proxy_is_none_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    built = build_upstream("plain", upstream(proxy=""))
    assert isinstance(built.transport, NativeTransport)
    await built.transport.close()


@pytest.mark.parametrize(("transport", "proxied"), [("auto", True), ("httpx", True), ("native", False)])
def test_the_environment_s_proxy_is_not_for_the_transport_that_was_asked_for_as_native(
    monkeypatch: pytest.MonkeyPatch, transport: str, *, proxied: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert upstream(transport=transport).effective_proxy() == (PROXY if proxied else None)


async def test_a_request_goes_through_the_environment_s_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("upstream.example").configure_cert(context)
    async with (
        serve([request(), answer(b"by tunnel")], tls=context) as provider,
        serve([head(), tunnel_to(provider.url)]) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        built = build_upstream("proxied", upstream(ca_file=tmp_path / "ca.pem"))
        assert await fetch(built.transport) == (200, b"by tunnel")
        await built.transport.close()
    assert proxy.requests[0].startswith(b"CONNECT upstream.example:443 ")
    assert provider.requests[0].startswith(b"POST /v1/v1/responses ")


async def test_a_request_to_this_machine_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([request(), answer(b"direct")]) as provider, serve([head()]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        built = build_upstream("local", upstream(provider.url))
        assert await fetch(built.transport) == (200, b"direct")
        await built.transport.close()
    assert proxy.accepted == 0
