"""The types of setting values, with their bounds: secrets by reference, patterns, prices, proxies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr

from gateway.billing.money import MoneyError, parse_usd
from gateway.routing.model_patterns import is_pattern
from gateway.store.url import EMBEDDED, StoreUrl

MAX_PRICE_NANO_USD: Final = 10**15  # 1,000,000 USD per million tokens


def read_secret(reference: str, environ: Mapping[str, str] = os.environ) -> str:
    """Returns the secret that "env:NAME" or "file:PATH" refers to.

    Raises ValueError, which never contains the secret.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        value = environ.get(name, "")
        if not value:
            raise ValueError(f"the environment variable {name} is not set")
    elif kind == "file" and name:
        try:
            value = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not value:
            raise ValueError(f"the file {name} is empty")
    else:
        raise ValueError('a secret is given as "env:NAME" or "file:PATH"')
    if not value.isascii() or not value.isprintable():
        raise ValueError("the secret must be printable ASCII")
    return value


class FileSecret(SecretStr):
    """A secret from a file, which may contain another secret later."""

    def __init__(self, reference: str) -> None:
        super().__init__(read_secret(reference))
        self._reference = reference

    def read_again(self) -> str:
        """Returns the secret that the file contains now. Raises ValueError."""
        return read_secret(self._reference)


def _secret(value: SecretStr) -> SecretStr:
    reference = value.get_secret_value()
    return FileSecret(reference) if reference.startswith("file:") else SecretStr(read_secret(reference))


def _secret_if_set(value: SecretStr | None) -> SecretStr | None:
    # An unset environment variable means "not configured", so that one file works with and without an admin key.
    if value is None:
        return None
    kind, _, name = value.get_secret_value().partition(":")
    return None if kind == "env" and name and not os.environ.get(name) else _secret(value)


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError('a model is an exact id, "provider/*" or "*"')
    return text


def _usd_per_million(text: str) -> str:
    try:
        amount = parse_usd(text)
    except MoneyError as error:
        raise ValueError(str(error)) from None
    if not 0 <= amount <= MAX_PRICE_NANO_USD:
        raise ValueError("a price lies between 0 and 1000000 USD per million tokens")
    return text


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError('an address or a network, such as "192.0.2.7" or "192.0.2.0/24"') from None
    return text


def _store_url(text: str) -> str:
    if text != EMBEDDED:
        StoreUrl.parse(text)
    return text


_KEPT_HERE: Final = frozenset(
    {"authorization", "proxy-authorization", "api-key", "x-api-key", "x-gateway-admin-key", "cookie", "host"}
    | {"connection", "content-length", "transfer-encoding", "expect", "upgrade", "keep-alive", "te", "trailer"}
    | {"x-gateway-tags", "x-gateway-end-user"}
    | {f"sec-websocket-{name}" for name in ("protocol", "key", "version", "extensions")}
)
"""Headers that never go from a client to an upstream: keys, a browser's too, tags, and a connection's own."""


def _forwarded_header(text: str) -> str:
    if text in _KEPT_HERE or any(name.startswith(text[:-1]) for name in _KEPT_HERE if text.endswith("*")):
        raise ValueError("this header, or one that it stands for, never goes to an upstream")
    return text


def _static_header(text: str) -> str:
    if text in _KEPT_HERE - {"cookie"}:
        raise ValueError("this header is the gateway's own: see auth, and base_url")
    return text


def matching(pattern: str, told: str) -> AfterValidator:
    """Returns a check that a text has a form. `told` describes the form to people."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(told)
        return text

    return AfterValidator(check)


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.startswith(("env:", "file:")):
        return SecretStr(read_secret(text))
    if not text.isascii() or not text.isprintable():
        raise ValueError("a header's value is printable ASCII")
    return value


_HEADER_NAME: Final = r"[a-z0-9!#$%&'+.^_`|~-]{1,128}"
_IS_HEADER: Final = 'a header is named in lower case, such as "x-title"'
ForwardedHeader = Annotated[
    str, matching(rf"{_HEADER_NAME}\*?", f'{_IS_HEADER}, or "x-org-*" for several'), AfterValidator(_forwarded_header)
]
StaticHeader = Annotated[str, matching(_HEADER_NAME, _IS_HEADER), AfterValidator(_static_header)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
QueryName = Annotated[str, Field(min_length=1, max_length=128)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
OptionalSecret = Annotated[SecretStr | None, AfterValidator(_secret_if_set)]
Pattern = Annotated[str, AfterValidator(_pattern)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
# in lower case, because names in the environment have no case
UpstreamName = Annotated[
    str, matching(r"[a-z0-9][a-z0-9_-]{0,63}", 'a name has lower-case letters, digits, "_" and "-", 64 at most')
]
RecipientName = UpstreamName
Usd = Annotated[str, AfterValidator(_usd_per_million)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Network = Annotated[str, AfterValidator(_network)]
StoreLocation = Annotated[str, AfterValidator(_store_url)]
Origin = Annotated[
    str,
    matching(r"https?://[a-z0-9.\[\]:-]{1,256}", 'an origin is written as browsers do: "https://app.example", no path'),
]
Retention = Annotated[int, Field(ge=60, le=10 * 366 * 86_400)]
