"""The address of an upstream and the TLS trust for it: base_url -> Origin, TransportConfig -> SSLContext."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.upstream.transport import TransportConfig

_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """The parts of a base URL.

    Attributes:
        host: for DNS and SNI; an IPv6 address without brackets.
        authority: for the Host field: brackets, and the port where it is not the scheme's.
        path: without a slash at its end; empty for none.
    """

    tls: bool
    host: str
    port: int
    authority: bytes
    path: bytes


def parse_origin(base_url: str) -> Origin:
    """Take a base URL apart.

    Raises:
        ValueError: no http(s) URL, or one with credentials, a query, a fragment or characters that a URL cannot have.
    """
    if not base_url.isprintable() or " " in base_url:
        raise ValueError("base_url contains characters that a URL cannot have")
    parts = urlsplit(base_url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("base_url must be http(s)://host[:port][/path]")
    if parts.username is not None or parts.password is not None or "?" in base_url or "#" in base_url:
        raise ValueError("base_url must not hold credentials, a query or a fragment")
    if not parts.path.isascii():
        raise ValueError("base_url's path must be percent-encoded")
    host = parts.hostname
    if ":" not in host:  # not an IPv6 address. UnicodeError is a ValueError: a label that is too long is refused here.
        host = host.encode("idna").decode("ascii")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
    name = f"[{host}]" if ":" in host else host
    authority = name if port == _DEFAULT_PORTS[parts.scheme] else f"{name}:{port}"
    return Origin(
        tls=parts.scheme == "https",
        host=host,
        port=port,
        authority=authority.encode("ascii"),
        path=parts.path.rstrip("/").encode("ascii"),
    )


def tls_context(config: TransportConfig, alpn: list[str] | None) -> ssl.SSLContext:
    """Build the client side of TLS: system trust or `ca_file`, host names checked, the client certificate if any.

    Args:
        config: of the upstream.
        alpn: protocols to offer; None leaves that to the caller's library.

    Raises:
        ValueError: a file is absent or not PEM.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.client_cert_file:
            context.load_cert_chain(config.client_cert_file, config.client_key_file, _refuse_password)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"TLS files of {config.base_url}: {error}") from error
    if config.ca_file is not None:
        # Python 3.13 checks by RFC 5280 to the letter, which many private authorities are not made by.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


def _refuse_password() -> str:
    """Is called for a private key that is encrypted. OpenSSL itself would ask on the terminal, and wait for ever."""
    raise ValueError("client_key_file is encrypted: give it without a password, readable by the gateway alone")
