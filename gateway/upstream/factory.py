"""Selects the transport of an upstream: `native`, `httpx`, or the one that fits its configuration (`auto`)."""

from typing import Literal, assert_never

from gateway.upstream.pool import NativeTransport
from gateway.upstream.transport import Transport, TransportConfig

TransportKind = Literal["native", "httpx", "auto"]


def build_transport(config: TransportConfig, kind: TransportKind) -> Transport:
    """Build a transport; nothing is connected yet.

    Args:
        config: of the upstream.
        kind: `auto` is httpx where a proxy or HTTP/2 is wanted, and native otherwise.

    Raises:
        ValueError: the configuration is wrong, or not possible with this kind.
    """
    match kind:
        case "native":
            return NativeTransport(config)
        case "httpx":
            return _over_httpx(config)
        case "auto":
            return _over_httpx(config) if config.proxy or config.http2 else NativeTransport(config)
        case _:
            assert_never(kind)


def _over_httpx(config: TransportConfig) -> Transport:
    from gateway.upstream.httpx_transport import HttpxTransport  # noqa: PLC0415 - with h2, its import takes a tenth of the start-up

    return HttpxTransport(config)
