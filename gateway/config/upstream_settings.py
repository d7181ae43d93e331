"""One upstream's table of the configuration: `[upstreams.NAME]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from gateway.config.environment_proxy import environment_proxy
from gateway.config.sections import (
    Section,
)
from gateway.config.types import (
    ForwardedHeader,
    HeaderValue,
    QueryName,
    Seconds,
    Secret,
    StaticHeader,
    matching,
)
from gateway.protocol.operations import checked_names
from gateway.upstream.health import Auth
from gateway.upstream.transport import TransportConfig

_ENDPOINTS: Final = ("/responses", "/chat/completions", "/messages", "/embeddings", "/completions")


SIMULATOR: Final = "simulator"
"""The base URL of the built-in simulator: `gateway serve` starts it, as it starts the embedded store."""

_BASE_URL: Final = matching(
    rf"https?://[^\s/?#]+(/[^\s?#]*)?|{SIMULATOR}", 'must be a URL without a query, such as "https://llm.example/v1"'
)


class UpstreamSettings(Section):
    """One provider that speaks OpenResponses."""

    base_url: Annotated[str, _BASE_URL]
    api_keys: tuple[Secret, ...] = Field(min_length=1)
    auth: Auth = "bearer"
    operations: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(checked_names)] | None = None
    forward_headers: tuple[ForwardedHeader, ...] = ()
    headers: dict[StaticHeader, HeaderValue] = Field(default_factory=dict)
    query: dict[QueryName, HeaderValue] = Field(default_factory=dict)
    transport: Literal["auto", "native", "httpx"] = "auto"
    proxy: str | None = None
    http2: bool = False
    websocket: bool = False
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 600.0
    chunk_timeout_s: Seconds = 300.0
    end_wait_s: Seconds = 5.0
    max_connections: int = Field(default=10_000, ge=1, le=100_000)
    max_idle_connections: int = Field(default=256, ge=0, le=100_000)
    idle_expiry_s: Seconds = 30.0
    replay_within_s: float = Field(default=0.1, ge=0, le=10, allow_inf_nan=False)
    ask_for_cost: bool = False
    max_answer_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**3)
    max_event_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024**3)
    max_answer_values: int = Field(default=1_000_000, ge=1000, le=1_000_000_000)
    on_client_leave: Literal["abort", "drain"] = "drain"
    drain_timeout_s: Seconds = 20.0
    breaker_failures: int = Field(default=5, ge=1, le=1_000_000)
    breaker_open_s: Seconds = 5.0
    key_rest_s: Seconds = 60.0
    health_max_models: int = Field(default=1024, ge=1, le=1_000_000)

    @field_validator("base_url")
    @classmethod
    def _is_a_base(cls, value: str) -> str:
        path = value.rstrip("/")
        for ending in _ENDPOINTS:
            if path.endswith(ending):
                raise ValueError(f"ends before {ending}, which the gateway adds: {path.removesuffix(ending)}")
        return value

    def effective_proxy(self) -> str | None:
        """Returns the forward proxy to use: the configured one, or else the environment's. "" means none.

        An upstream with `transport = "native"` is connected to directly, so the environment's proxy is not used for it.
        """
        if self.proxy is not None:
            return self.proxy or None
        return None if self.transport == "native" else environment_proxy(self.base_url)

    def transport_config(self) -> TransportConfig:
        """Where the upstream is, and how it is reached, as the transport wants it."""
        return TransportConfig(
            base_url=self.base_url,
            connect_timeout_s=self.connect_timeout_s,
            first_byte_timeout_s=self.first_byte_timeout_s,
            chunk_timeout_s=self.chunk_timeout_s,
            max_connections=self.max_connections,
            max_idle=self.max_idle_connections,
            idle_expiry_s=self.idle_expiry_s,
            replay_within_s=self.replay_within_s,
            ca_file=_text(self.ca_file),
            client_cert_file=_text(self.client_cert_file),
            client_key_file=_text(self.client_key_file),
            http2=self.http2,
            proxy=self.effective_proxy(),
        )


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
