"""Selects the transport of an upstream: HTTP/2 if it is configured and the upstream has TLS, or else the native one."""

from importlib.util import find_spec
from typing import Literal

from gateway.upstream.origin import parse_origin
from gateway.upstream.pool import NativeTransport
from gateway.upstream.transport import Transport, TransportConfig

TransportKind = Literal["native", "httpx", "auto"]


def build_transport(config: TransportConfig, kind: TransportKind) -> Transport:
    """Build a transport. It does not connect yet.

    Args:
        config: of the upstream.
        kind: `auto` is HTTP/2 if the configuration has `http2` and the upstream has TLS, and native otherwise.
            `httpx`, the name of an earlier transport, means the same. `native` is only HTTP/1.1.

    Raises:
        ValueError: the configuration is invalid, or the package `h2` is needed and not installed.
    """
    if not config.http2:
        return NativeTransport(config)
    if kind == "native":
        raise ValueError('transport = "native" speaks HTTP/1.1 alone: leave it out where http2 is wanted')
    if find_spec("h2") is None:
        raise ValueError("http2 needs the package h2: install the gateway with its http2 extra")
    return _over_http2(config) if parse_origin(config.base_url).tls else NativeTransport(config)


def _over_http2(config: TransportConfig) -> Transport:
    from gateway.upstream.http2_pool import Http2Transport  # noqa: PLC0415 - h2 is an extra, and its import takes time

    return Http2Transport(config)
