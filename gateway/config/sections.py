"""The sections that every gateway's configuration has. Each is a table of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from gateway.config.types import (
    Network,
    OptionalSecret,
    Origin,
    Retention,
    Seconds,
    Secret,
    StoreLocation,
)
from gateway.store.url import EMBEDDED


class Section(BaseModel):
    """A table of the configuration. Unknown keys are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(Section):
    """Where the gateway listens, and what it accepts from clients."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    max_bodies_bytes: int = Field(default=512 * 1024 * 1024, ge=1024 * 1024, le=1024**4)
    spool_forms_over_bytes: int = Field(default=1024 * 1024, ge=256 * 1024, le=1024**3)
    max_spooled_bytes: int = Field(default=2 * 1024**3, ge=1024 * 1024, le=1024**5)
    max_text_bytes: int = Field(default=8 * 1024 * 1024, ge=64 * 1024, le=1024**3)
    max_json_values: int = Field(default=200_000, ge=1000, le=100_000_000)
    threads: int = Field(default=1, ge=1, le=64)
    body_timeout_s: Seconds = 30.0
    max_head_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    max_head_fields: int = Field(default=100, ge=10, le=10_000)
    head_timeout_s: Seconds = 30.0
    client_write_timeout_s: Seconds = 60.0
    max_connections: int = Field(default=20_000, ge=1, le=1_000_000)
    max_connections_per_address: int = Field(default=10_000, ge=1, le=1_000_000)
    max_unverified_bytes: int = Field(default=64 * 1024 * 1024, ge=64 * 1024, le=1024**4)
    keep_alive_s: int = Field(default=75, ge=1, le=3600)
    total_timeout_s: Seconds = 3600.0
    failover_s: Seconds = 30.0
    shutdown_delay_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | Literal["auto"] = "auto"
    drain_timeout_s: Seconds = 30.0
    metrics_token: Secret | None = None
    metrics_max_series: int = Field(default=1000, ge=1, le=100_000)
    trusted_proxies: tuple[Network, ...] = ()
    auth_failures_per_minute: int = Field(default=600, ge=0, le=1_000_000)
    cors_origins: tuple[Origin, ...] = ()
    azure_paths: bool = False


class StoreSettings(Section):
    """The Redis or Valkey server that stores keys, limits and the ledger."""

    url: StoreLocation = EMBEDDED
    data_dir: Path = Path("data")
    username: str | None = None
    password: Secret | None = None
    ca_file: Path | None = None
    timeout_s: Seconds = 1.0
    connect_timeout_s: Seconds = 1.0
    breaker_open_s: Seconds = 0.5
    max_pending: int = Field(default=10_000, ge=1, le=1_000_000)
    on_failure: Literal["closed", "open"] = "closed"
    accept_data_loss: bool = False


MIN_ROOT_KEY_CHARACTERS: Final = 32


class AdminSettings(Section):
    """The admin API, which is off without a key."""

    key: OptionalSecret = None
    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65_535)

    @field_validator("key")
    @classmethod
    def _is_long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        # It is never delayed, so that nobody can lock an operator out: its length alone makes guessing hopeless.
        if key is not None and len(key.get_secret_value()) < MIN_ROOT_KEY_CHARACTERS:
            raise ValueError(f"the root admin key must have at least {MIN_ROOT_KEY_CHARACTERS} characters")
        return key

    audit_max_entries: int = Field(default=100_000, ge=100, le=10_000_000)
    max_parallel: int = Field(default=4, ge=1, le=1000)
    max_waiting: int = Field(default=32, ge=0, le=100_000)
    session_ttl_s: int = Field(default=1800, ge=60, le=12 * 3600)
    sign_in_attempts: int = Field(default=10, ge=1, le=10_000)


class LimitsSettings(Section):
    """What is assumed for a request that does not state it."""

    default_max_output_tokens: int = Field(default=4096, ge=1, le=10_000_000)
    reserve_input_tokens: int = Field(default=100_000, ge=0, le=1_000_000_000)
    max_tool_calls: int = Field(default=10, ge=0, le=10_000)
    send_max_output_tokens: bool | Literal["auto"] = "auto"
    reserve_tool_tokens: int = Field(default=16_384, ge=0, le=10_000_000)
    dry_runs_per_minute: int = Field(default=60, ge=1, le=1_000_000)
    token_counts_per_minute: int = Field(default=600, ge=1, le=1_000_000)
    charge_unanswered: Literal["input", "nothing"] = "input"
    charge_failed_input: bool = True
    on_overrun: Literal["allow", "pause"] = "allow"
    max_end_users: int = Field(default=100_000, ge=1, le=10_000_000)
    unnamed_end_users: Literal["together", "refused"] = "together"


class LedgerSettings(Section):
    """How long the ledger keeps its data."""

    hold_ttl_s: Seconds = 15.0
    lease_s: Seconds = 3.0
    unreplicated_max: int = Field(default=10_000, ge=0, le=10_000_000)
    burst: float = Field(default=1.0, ge=0.001, le=1.0, allow_inf_nan=False)
    resolution_ttl_s: Retention = 7 * 86_400
    journal_retention_s: Retention = 400 * 86_400
    usage_retention_s: Retention = 400 * 86_400
    idempotency_ttl_s: Retention = 86_400
    max_credit_lots: int = Field(default=32, ge=1, le=200)
    refused_max_entries: int = Field(default=1000, ge=10, le=1_000_000)
    refused_retention_s: Retention = 7 * 86_400
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=4096, le=1024**4)


MIN_HASH_KEY_CHARACTERS: Final = 32
MAX_COUNTED: Final = 20_000
"""Values that a team's day may tell apart, of all names together."""


class AttributionSettings(Section):
    """What of a request counts as a tag, and how much of it is kept."""

    metadata: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ("*",)
    end_users: Literal["plain", "hashed", "off"] = "plain"
    hash_key: OptionalSecret = None
    max_tags: int = Field(default=8, ge=1, le=32)
    max_values: int = Field(default=500, ge=1, le=10_000)
    max_names: int = Field(default=20, ge=1, le=1000)
    retention_s: Retention = 90 * 86_400

    @model_validator(mode="after")
    def _hashes_with_a_key(self) -> Self:
        if self.end_users == "hashed" and self.hash_key is None:
            raise ValueError('end_users = "hashed" needs hash_key')
        if self.hash_key is not None and len(self.hash_key.get_secret_value()) < MIN_HASH_KEY_CHARACTERS:
            raise ValueError(f"hash_key must have at least {MIN_HASH_KEY_CHARACTERS} characters")
        return self

    @model_validator(mode="after")
    def _fits_into_a_day(self) -> Self:
        if self.max_values * self.max_names > MAX_COUNTED:
            raise ValueError(f"max_values * max_names must be at most {MAX_COUNTED}: a report reads a day at once")
        return self


MIN_ENCRYPTION_KEY_CHARACTERS: Final = 32
MAX_ENCRYPTION_KEYS: Final = 16


class StateSettings(Section):
    """[state]: how the gateway stores responses and conversations, for routes with `state = "gateway"`."""

    ttl_s: Retention = 30 * 86_400
    encryption_keys: tuple[Secret, ...] = ()
    off_for_teams: tuple[str, ...] = ()
    max_response_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_team_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=1024**4)
    max_depth: int = Field(default=1_000, ge=1, le=100_000)
    max_resolved_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    compact_threshold_tokens: int = Field(default=100_000, ge=1, le=1_000_000_000)
    background_concurrency: int = Field(default=10, ge=1, le=10_000)
    background_queue: int = Field(default=100, ge=0, le=10_000)
    background_lease_s: float = Field(default=5.0, ge=1, le=3600, allow_inf_nan=False)
    background_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024, le=1024**4)

    @field_validator("encryption_keys")
    @classmethod
    def _are_long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len(keys) > MAX_ENCRYPTION_KEYS:
            raise ValueError(f"there may be {MAX_ENCRYPTION_KEYS} encryption keys at most")
        if any(len(key.get_secret_value()) < MIN_ENCRYPTION_KEY_CHARACTERS for key in keys):
            raise ValueError(f"an encryption key must have at least {MIN_ENCRYPTION_KEY_CHARACTERS} characters")
        return keys


class WebSocketSettings(Section):
    """[websocket]: connections of WebSocket mode at GET /v1/responses, and what each may take."""

    enabled: bool = True
    max_per_key: int = Field(default=100, ge=1, le=100_000)
    max_message_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    max_lanes: int = Field(default=16, ge=1, le=1000)
    max_queued: int = Field(default=32, ge=0, le=1000)
    max_queued_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**4)
    max_memory_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**4)
    max_worker_memory_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=1024**4)
    max_unsent_bytes: int = Field(default=32 * 1024 * 1024, ge=64 * 1024, le=1024**4)
    write_timeout_s: Seconds = 60.0
    ping_s: float = Field(default=20.0, ge=1, le=30, allow_inf_nan=False)
    idle_s: Seconds = 1800.0
    max_age_s: Seconds = 3600.0
    compression: bool = True


class RoutingSettings(Section):
    """What routing remembers. One response takes about 300 bytes in the store."""

    response_ttl_s: int = Field(default=7 * 86_400, ge=0, le=366 * 86_400)
    unnamed_model: str = Field(default="", min_length=0, max_length=256)


class ErrorsSettings(Section):
    """The form of errors."""

    numeric_codes: bool = False


class LogSettings(Section):
    """The structured log: JSON lines on standard error, or readable text on a terminal."""

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    buffer_bytes: int = Field(default=4 * 1024 * 1024, ge=65_536, le=1024**3)
    when_full: Literal["drop", "wait"] = "drop"


class TelemetrySettings(Section):
    """What is sent to collectors. OpenTelemetry's own variables (OTEL_*) configure the destination and the amount."""

    traces: bool = False
    metrics: bool = False
