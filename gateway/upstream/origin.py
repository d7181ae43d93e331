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
        authority: for the Host field: with brackets, and with the port if it is not the scheme's default.
        path: without a slash at its end, or empty.
    """

    tls: bool
    host: str
    port: int
    authority: bytes
    path: bytes


def parse_origin(base_url: str) -> Origin:
    """Parse a base URL.

    Raises:
        ValueError: not an http(s) URL, or one with credentials, a query, a fragment or invalid characters.
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
    if ":" not in host:  # not an IPv6 address. A label that is too long raises UnicodeError, which is a ValueError.
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
    """Build the TLS context of a client: trusts the system or `ca_file`, checks host names, has a client certificate.

    Args:
        config: of the upstream.
        alpn: the protocols to offer, or None.

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
        # Python 3.13 applies RFC 5280 strictly, which certificates of many private authorities do not satisfy.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


def _refuse_password() -> str:
    """Refuses an encrypted private key. Without this callback OpenSSL would wait for a password on the terminal."""
    raise ValueError("client_key_file is encrypted: give it without a password, readable by the gateway alone")
