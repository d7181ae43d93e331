"""Every setting, typed; with setting_types.py the only reader of environment and files.

    gateway.toml (--config, GATEWAY_CONFIG)  <  environment GATEWAY_<SECTION>__<NAME>
    secrets: "env:NAME" or "file:PATH", never the secret itself
    sections: server store admin limits ledger routing errors log telemetry upstreams.<name> routes aliases
        prices."<pattern>"
    lists and tables in the environment: JSON, GATEWAY_UPSTREAMS__SIRAYA__API_KEYS='["env:SIRAYA_API_KEY"]'

Unknown keys are errors. `load_settings` reports every error at once, each with its place (problems.py).
gateway.example.toml documents each setting; a test holds the two together.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from gateway.billing.money import parse_usd
from gateway.billing.prices import Price, PriceTable
from gateway.config.errors import DELIMITER, ENV_PREFIX, InvalidSettings, Problem, SettingsError, line, problems_of
from gateway.config.types import (
    ModelName,
    Network,
    OptionalSecret,
    Origin,
    Pattern,
    Retention,
    Seconds,
    Secret,
    StoreLocation,
    UpstreamName,
    Usd,
    environment_proxy,
)
from gateway.routing.model_patterns import specificity
from gateway.routing.router import Router, RouteRule
from gateway.store.url import EMBEDDED


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(Section):
    """Where the gateway listens, and what it accepts from clients."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    body_timeout_s: Seconds = 30.0
    max_head_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    head_timeout_s: Seconds = 30.0
    keep_alive_s: int = Field(default=75, ge=1, le=3600)
    total_timeout_s: Seconds = 3600.0
    failover_s: Seconds = 30.0
    shutdown_delay_s: float = Field(default=0.0, ge=0, le=3600, allow_inf_nan=False)
    drain_timeout_s: Seconds = 30.0
    metrics_token: Secret | None = None
    metrics_max_series: int = Field(default=1000, ge=1, le=100_000)
    trusted_proxies: tuple[Network, ...] = ()
    auth_failures_per_minute: int = Field(default=600, ge=0, le=1_000_000)
    cors_origins: tuple[Origin, ...] = ()


class StoreSettings(Section):
    """The Redis or Valkey that keeps keys, limits and the ledger."""

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


class AdminSettings(Section):
    """The admin API; without a key it is off."""

    key: OptionalSecret = None
    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65_535)
    audit_max_entries: int = Field(default=100_000, ge=100, le=10_000_000)
    session_ttl_s: int = Field(default=1800, ge=60, le=12 * 3600)
    sign_in_attempts: int = Field(default=10, ge=1, le=10_000)


class LimitsSettings(Section):
    """What a request counts for when it does not say itself."""

    default_max_output_tokens: int = Field(default=4096, ge=1, le=10_000_000)


class LedgerSettings(Section):
    """How long the ledger keeps what."""

    hold_ttl_s: Seconds = 15.0
    resolution_ttl_s: Retention = 7 * 86_400
    journal_retention_s: Retention = 400 * 86_400
    usage_retention_s: Retention = 400 * 86_400
    idempotency_ttl_s: Retention = 86_400
    refused_max_entries: int = Field(default=1000, ge=10, le=1_000_000)
    refused_retention_s: Retention = 7 * 86_400
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=4096, le=1024**4)


class RoutingSettings(Section):
    """What routing remembers. A response takes about 300 bytes of the store."""

    response_ttl_s: int = Field(default=7 * 86_400, ge=0, le=366 * 86_400)


class ErrorsSettings(Section):
    """How errors look."""

    numeric_codes: bool = False


class LogSettings(Section):
    """The structured log: JSON lines on standard error, or a form for people on a terminal."""

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class TelemetrySettings(Section):
    """What is sent to collectors. Where to, how much and how: OpenTelemetry's own variables (OTEL_*)."""

    traces: bool = False


class UpstreamSettings(Section):
    """One provider that speaks OpenResponses."""

    base_url: str = Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")
    api_keys: tuple[Secret, ...] = Field(min_length=1)
    transport: Literal["auto", "native", "httpx"] = "auto"
    proxy: str | None = None
    http2: bool = False
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 600.0
    chunk_timeout_s: Seconds = 300.0
    max_connections: int = Field(default=10_000, ge=1, le=100_000)
    max_idle_connections: int = Field(default=256, ge=0, le=100_000)
    idle_expiry_s: Seconds = 30.0
    max_answer_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**3)
    max_event_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024**3)
    on_client_leave: Literal["abort", "drain"] = "abort"
    drain_timeout_s: Seconds = 60.0
    breaker_failures: int = Field(default=5, ge=1, le=1_000_000)
    breaker_open_s: Seconds = 5.0
    key_rest_s: Seconds = 60.0

    def effective_proxy(self) -> str | None:
        """The forward proxy to use, if any: the configured one, or else the environment's. "" is none at all.

        The native transport has none: who asks for it by name does not mean the environment's.
        """
        if self.proxy is not None:
            return self.proxy or None
        return None if self.transport == "native" else environment_proxy(self.base_url)


class RouteSettings(Section):
    """One [[routes]] entry: which upstreams answer for a model."""

    model: Pattern
    upstreams: tuple[str, ...] = Field(min_length=1)
    weights: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] = ()
    rename: str | None = Field(default=None, min_length=1, max_length=256)
    strip_prefix: str | None = Field(default=None, min_length=1, max_length=256)
    repeat_started: bool = False
    cost_source: Literal["usage", "upstream"] = "usage"
    keepalive_s: Seconds | None = None
    cut_at_cap: bool = False
    default_max_output_tokens: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.upstreams):
            raise ValueError("weights must hold one number for each upstream")
        if self.weights and not any(self.weights):
            raise ValueError("one weight at least must be over 0")
        return self

    def rule(self) -> RouteRule:
        """The same as the router's value."""
        fields = self.model_dump(exclude={"model"})
        return RouteRule(pattern=self.model, **fields)


class PriceSettings(Section):
    """USD per million tokens, as decimal strings. `cached_input` costs what `input` costs unless given."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None

    def price(self) -> Price:
        """The same in nano-USD."""
        cached_input = self.input if self.cached_input is None else self.cached_input
        return Price(parse_usd(self.input), parse_usd(cached_input), parse_usd(self.output))


class Settings(BaseSettings):
    """The whole configuration; the environment is read here. `load_settings` is the way to make one from a file.

    Raises SettingsError with everything that is wrong.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter=DELIMITER, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    admin: AdminSettings = AdminSettings()
    limits: LimitsSettings = LimitsSettings()
    ledger: LedgerSettings = LedgerSettings()
    routing: RoutingSettings = RoutingSettings()
    errors: ErrorsSettings = ErrorsSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    upstreams: dict[UpstreamName, UpstreamSettings] = Field(min_length=1)
    routes: tuple[RouteSettings, ...] = Field(min_length=1)
    aliases: dict[ModelName, ModelName] = {}
    prices: dict[Pattern, PriceSettings] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which is given as init arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Names are looked up in the raw values: one wrong number does not hide an upstream that is not there.
        problems = list(_unknown_names(_fields(data)))
        try:
            settings = handler(data)
        except ValidationError as error:
            raise InvalidSettings([*problems_of(error), *problems]) from None
        if problems:
            raise InvalidSettings(problems)
        return settings

    def router(self) -> Router:
        """Routes, aliases and prices as the router wants them."""
        table = PriceTable({pattern: price.price() for pattern, price in self.prices.items()})
        return Router({route.model: route.rule() for route in self.routes}, self.aliases, table)


def load_settings(path: Path | None) -> Settings:
    """Reads file and environment. Raises SettingsError with every problem.

    The command line's flags arrive as environment variables, so that worker processes read the very same.
    """
    where = str(path) if path is not None else "configuration"
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError([f"{where}: cannot be read: {error.strerror}"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError([f"{where}: is not TOML: {error}"]) from None
    return settings_from(values, where)


def settings_from(values: Mapping[str, Any], where: str) -> Settings:
    """The settings of a file's values and the environment. `where`: the file's name. Raises SettingsError."""
    lines = _unknown_variables(os.environ)
    try:
        settings = Settings(**values)
    except InvalidSettings as refused:
        raise SettingsError(lines + [line(problem, where, os.environ) for problem in refused.problems]) from None
    except UnreadableVariable:
        raise SettingsError(lines + _not_json(os.environ)) from None
    if lines:
        raise SettingsError(lines)
    return settings


def _fields(value: Any) -> Mapping[Any, Any]:
    """A table's keys and values, whether it is raw or validated already; of anything else, none."""
    return dict(value) if isinstance(value, BaseModel) else value if isinstance(value, Mapping) else {}


def _unknown_names(values: Mapping[Any, Any]) -> Iterator[Problem]:
    """Routes to upstreams that do not exist, patterns with two routes, aliases that lead nowhere."""
    upstreams = _fields(values.get("upstreams"))
    routes = values.get("routes")
    patterns = set()
    for index, raw in enumerate(routes if isinstance(routes, list | tuple) else ()):
        route = _fields(raw)
        names = route.get("upstreams")
        for name in names if isinstance(names, list | tuple) else ():
            if name not in upstreams:
                yield Problem(("routes", index, "upstreams"), f"there is no upstream {name!r}")
        pattern = str(route.get("model"))
        if pattern in patterns:
            yield Problem(("routes", index, "model"), f"{pattern!r} has a route already")
        patterns.add(pattern)
    for alias, model in _fields(values.get("aliases")).items():
        if isinstance(model, str) and patterns.isdisjoint(specificity(model)):
            yield Problem(("aliases", alias), f"there is no route for {model!r}")


def _not_json(environ: Mapping[str, str]) -> list[str]:
    """The variables that pydantic cannot read; its own error names only their section."""
    problems = []
    for name, value in environ.items():
        source = EnvSettingsSource(Settings)
        source.env_vars = {name.lower(): value}
        try:
            source()
        except UnreadableVariable as error:
            problems.append(f"environment {name}: must be JSON here: {error.__cause__}")
    return problems


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix and delimiter that name no section: typing mistakes.

    Those without the delimiter are no mistake: Kubernetes sets GATEWAY_PORT and more for a service "gateway".
    """
    problems = []
    for name in environ:
        section, delimiter, _ = name.removeprefix(ENV_PREFIX).partition(DELIMITER)
        if name.startswith(ENV_PREFIX) and delimiter and section.lower() not in Settings.model_fields:
            problems.append(f"environment {name}: there is no section {section.lower()!r}")
    return problems
