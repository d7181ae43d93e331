"""Every setting, typed; the only reader of environment and files.

    gateway.toml (--config, GATEWAY_CONFIG)  <  environment GATEWAY_<SECTION>__<NAME>
    secrets: "env:NAME" or "file:PATH", never the secret itself
    sections: server store admin limits ledger errors log upstreams.<name> routes aliases prices."<pattern>"

Unknown keys are errors. `load_settings` reports every error at once, each with its place. gateway.example.toml
documents each setting; a test holds the two together.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.money import MoneyError, parse_usd
from gateway.patterns import is_pattern
from gateway.pricing import Price, PriceTable
from gateway.routing import Router, RouteRule

ENV_PREFIX = "GATEWAY_"
NOT_SETTINGS = frozenset({"GATEWAY_CONFIG", "GATEWAY_URL", "GATEWAY_ADMIN_KEY"})


class SettingsError(Exception):
    """The configuration is wrong. `problems`: one line each, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_secret(reference: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret that "env:NAME" or "file:PATH" names. Raises ValueError with the reason, never with the secret."""
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


def _secret(value: SecretStr) -> SecretStr:
    return SecretStr(read_secret(value.get_secret_value()))


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError('a model is an exact id, "provider/*" or "*"')
    return text


Secret = Annotated[SecretStr, AfterValidator(_secret)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Retention = Annotated[int, Field(ge=60, le=10 * 366 * 86_400)]


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(Section):
    """Where the gateway listens, and what it accepts from clients."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    body_timeout_s: Seconds = 30.0
    keep_alive_s: int = Field(default=75, ge=1, le=3600)
    total_timeout_s: Seconds = 3600.0
    failover_s: Seconds = 30.0
    drain_timeout_s: Seconds = 30.0


class StoreSettings(Section):
    """The Redis or Valkey that keeps keys, limits and the ledger."""

    url: str = "embedded"
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

    key: SecretStr | None = None

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        # An environment variable that is not set means "none configured": one file serves with and without admin.
        if self.key is not None:
            reference = self.key.get_secret_value()
            if reference.startswith("env:") and not os.environ.get(reference[4:]):
                return self.model_copy(update={"key": None})
            return self.model_copy(update={"key": SecretStr(read_secret(reference))})
        return self


class LimitsSettings(Section):
    """What a request counts for when it does not say itself."""

    default_max_output_tokens: int = Field(default=4096, ge=1, le=10_000_000)


class LedgerSettings(Section):
    """How long the ledger keeps what."""

    hold_ttl_s: Seconds = 30.0
    resolution_ttl_s: Retention = 7 * 86_400
    journal_retention_s: Retention = 400 * 86_400
    usage_retention_s: Retention = 400 * 86_400
    idempotency_ttl_s: Retention = 86_400
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=4096, le=1024**4)


class ErrorsSettings(Section):
    """How errors look."""

    numeric_codes: bool = False


class LogSettings(Section):
    """The structured log: JSON lines on standard error, or a form for people on a terminal."""

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


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


class RouteSettings(Section):
    """One [[routes]] entry: which upstreams answer for a model."""

    model: Pattern
    upstreams: tuple[str, ...] = Field(min_length=1)
    weights: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] = ()
    rename: str | None = Field(default=None, min_length=1, max_length=256)
    strip_prefix: str | None = Field(default=None, min_length=1, max_length=256)
    repeat_started: bool = False
    cost_source: Literal["usage", "upstream"] = "usage"
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

    input: str
    output: str
    cached_input: str | None = None

    @model_validator(mode="after")
    def _amounts(self) -> Self:
        self.price()
        return self

    def price(self) -> Price:
        """The same in nano-USD. Raises ValueError for what is no amount."""
        amounts = []
        for name in ("input", "cached_input", "output"):
            text = getattr(self, name) if getattr(self, name) is not None else self.input
            try:
                amount = parse_usd(text)
            except MoneyError as error:
                raise ValueError(f"{name}: {error}") from None
            if not 0 <= amount <= 10**15:
                raise ValueError(f"{name}: a price lies between 0 and 1000000 USD per million tokens")
            amounts.append(amount)
        return Price(*amounts)


class Settings(BaseSettings):
    """The whole configuration. Raises pydantic's ValidationError; `load_settings` turns that into lines."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", validate_default=True
    )

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    admin: AdminSettings = AdminSettings()
    limits: LimitsSettings = LimitsSettings()
    ledger: LedgerSettings = LedgerSettings()
    errors: ErrorsSettings = ErrorsSettings()
    log: LogSettings = LogSettings()
    upstreams: dict[str, UpstreamSettings] = Field(min_length=1)
    routes: tuple[RouteSettings, ...] = Field(min_length=1)
    aliases: dict[str, str] = {}
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

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        problems = []
        seen: set[str] = set()
        for index, route in enumerate(self.routes):
            problems += [
                f"routes[{index}].upstreams: there is no upstream {name!r}"
                for name in route.upstreams
                if name not in self.upstreams
            ]
            if route.model in seen:
                problems.append(f"routes[{index}].model: {route.model!r} has a route already")
            seen.add(route.model)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def router(self) -> Router:
        """Routes, aliases and prices as the router wants them."""
        table = PriceTable({pattern: price.price() for pattern, price in self.prices.items()})
        return Router({route.model: route.rule() for route in self.routes}, self.aliases, table)


def load_settings(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Reads file and environment. `overrides`: command-line values, {"server": {"port": 1}}. Raises SettingsError."""
    where = str(path) if path is not None else "configuration"
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError([f"{where}: cannot be read: {error.strerror}"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError([f"{where}: is not TOML: {error}"]) from None
    problems = _unknown_variables(os.environ)
    try:
        settings = _with_overrides(Settings(**values), overrides or {})
    except ValidationError as error:
        raise SettingsError(problems + [f"{where}: {line}" for line in describe(error)]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _with_overrides(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    changes = {}
    for name, fields in overrides.items():
        section = getattr(settings, name)
        given = {key: value for key, value in fields.items() if value is not None}
        changes[name] = type(section)(**{**dict(section), **given})
    return settings.model_copy(update=changes)


def describe(error: ValidationError) -> list[str]:
    """One line for each problem: its place, then what is wrong; values are left out, since they may be secrets."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        place = ""
        for part in problem["loc"]:
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such setting"
        lines += [f"{place}: {message}" if place else part for part in message.split("; ")]
    return lines


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    sections = {name.upper() for name in Settings.model_fields}
    problems = []
    for name in environ:
        if not name.startswith(ENV_PREFIX) or name in NOT_SETTINGS:
            continue
        section, separator, _ = name[len(ENV_PREFIX) :].partition("__")
        if separator and section not in sections:
            problems.append(f"environment {name}: there is no section {section.lower()!r}")
    return problems
