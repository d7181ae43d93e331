"""All settings with their types. Only this module and types.py read the environment and files.

    gateway.toml (--config, GATEWAY_CONFIG)  <  environment GATEWAY_<SECTION>__<NAME>
    secrets: "env:NAME" or "file:PATH", never the secret itself
    sections: server websocket store admin oidc limits ledger attribution routing errors log telemetry notices
        recipients.<name> upstreams.<name> routes aliases prices."<pattern>"
    lists and tables in the environment: JSON, GATEWAY_UPSTREAMS__SIRAYA__API_KEYS='["env:SIRAYA_API_KEY"]'

Unknown keys are errors. `load_settings` reports every error at once, each with its place (errors.py).
gateway.example.toml documents each setting; a test compares the two.
"""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from gateway.billing.price_table import PriceTable
from gateway.config.errors import DELIMITER, ENV_PREFIX, InvalidSettings, Problem, SettingsError, Source, problems_of
from gateway.config.messages import hint, settings_at
from gateway.config.notice_settings import MAX_RECIPIENTS, NoticesSettings, RecipientSettings
from gateway.config.oidc_settings import OidcSettings
from gateway.config.positions import positions
from gateway.config.price_settings import PriceSettings
from gateway.config.route_settings import RouteSettings
from gateway.config.sections import (
    AdminSettings,
    AttributionSettings,
    ErrorsSettings,
    LedgerSettings,
    LimitsSettings,
    LogSettings,
    RoutingSettings,
    ServerSettings,
    StateSettings,
    StoreSettings,
    TelemetrySettings,
    WebSocketSettings,
)
from gateway.config.types import (
    ModelName,
    Pattern,
    RecipientName,
    UpstreamName,
)
from gateway.config.upstream_settings import UpstreamSettings
from gateway.protocol.model_spelling import folded
from gateway.routing.model_patterns import specificity
from gateway.routing.router import Router


class Settings(BaseSettings):
    """The whole configuration; the environment is read here. `load_settings` is the way to make one from a file.

    Raises SettingsError with everything that is wrong.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter=DELIMITER, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    state: StateSettings = Field(default_factory=StateSettings)
    websocket: WebSocketSettings = WebSocketSettings()
    admin: AdminSettings = AdminSettings()
    oidc: OidcSettings = OidcSettings()
    limits: LimitsSettings = LimitsSettings()
    ledger: LedgerSettings = LedgerSettings()
    attribution: AttributionSettings = Field(default_factory=AttributionSettings)
    routing: RoutingSettings = RoutingSettings()
    errors: ErrorsSettings = ErrorsSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    notices: NoticesSettings = NoticesSettings()
    recipients: dict[RecipientName, RecipientSettings] = Field(default_factory=dict, max_length=MAX_RECIPIENTS)
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
        # Names are looked up in the raw values, so that one wrong number does not hide a missing upstream.
        problems = list(_unknown_names(_fields(data)))
        try:
            settings = handler(data)
        except ValidationError as error:
            raise InvalidSettings([*problems_of(error, cls), *problems]) from None
        if problems:
            raise InvalidSettings(problems)
        return settings

    def router(self) -> Router:
        """Routes, aliases and prices as the router wants them."""
        table = PriceTable({pattern: price.price() for pattern, price in self.prices.items()})
        rules = {route.model: route.rule() for route in self.routes}
        return Router(rules, self.aliases, table, self.routing.unnamed_model)


def load_settings(path: Path | None) -> Settings:
    """Reads file and environment. Raises SettingsError with every problem.

    The command line's flags arrive as environment variables, so that worker processes read the very same.
    """
    if path is None:
        return settings_from({}, Source("configuration"))
    where = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError([f"{where}: cannot be read: {error.strerror}"]) from None
    text = _text_of(content, where)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([_not_toml(str(error), where, text)]) from None
    return settings_from(values, Source(where, positions(text)))


_END: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _text_of(content: bytes, where: str) -> str:
    """Returns a file's text. Raises SettingsError if it is not UTF-8 or begins with a byte order mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SettingsError([f"{where}:1:1: is UTF-16: save it as UTF-8"])
    if content.startswith(codecs.BOM_UTF8):
        raise SettingsError([f"{where}:1:1: begins with a byte order mark (BOM): save it as UTF-8 without one"])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise SettingsError([f"{where}:{line}:{column}: is not UTF-8"]) from None


def _not_toml(message: str, where: str, text: str) -> str:
    place = _END.search(message)
    lines = text.splitlines() or [""]
    line, column = (place[1], place[2]) if place and place[1] else (str(len(lines)), str(len(lines[-1]) + 1))
    return f"{where}:{line}:{column}: is not TOML: {_END.sub('', message)}"


def settings_from(values: Mapping[str, Any], source: Source) -> Settings:
    """Returns the settings from a file's values and the environment. Raises SettingsError."""
    lines = _unknown_variables(os.environ)
    try:
        settings = Settings(**values)
    except InvalidSettings as refused:
        raise SettingsError(lines + source.lines(refused.problems, os.environ)) from None
    except UnreadableVariable:
        raise SettingsError(lines + _not_json(os.environ)) from None
    if lines:
        raise SettingsError(lines)
    return settings


def _fields(value: Any) -> Mapping[Any, Any]:
    """Returns the keys and values of a raw or validated table, and nothing for other values."""
    return dict(value) if isinstance(value, BaseModel) else value if isinstance(value, Mapping) else {}


def _unknown_names(values: Mapping[Any, Any]) -> Iterator[Problem]:
    """Finds routes to missing upstreams, patterns with two routes, and aliases without a route."""
    upstreams = _fields(values.get("upstreams"))
    routes = values.get("routes")
    patterns = set()
    for index, raw in enumerate(routes if isinstance(routes, list | tuple) else ()):
        route = _fields(raw)
        names = route.get("upstreams")
        for name in names if isinstance(names, list | tuple) else ():
            if name not in upstreams:
                yield Problem(
                    ("routes", index, "upstreams"), f"there is no upstream {name!r}{hint(str(name), upstreams)}"
                )
        pattern = folded(str(route.get("model")))
        if pattern in patterns:
            yield Problem(("routes", index, "model"), f"{route.get('model')!r} has a route already")
        patterns.add(pattern)
    for alias, model in _fields(values.get("aliases")).items():
        if isinstance(model, str) and patterns.isdisjoint(_patterns(folded(model))):
            yield Problem(("aliases", alias), f"there is no route for {model!r}")
    unnamed = _fields(values.get("routing")).get("unnamed_model")
    unnamed = _fields(values.get("aliases")).get(unnamed, unnamed)
    if isinstance(unnamed, str) and unnamed and patterns.isdisjoint(_patterns(folded(unnamed))):
        yield Problem(("routing", "unnamed_model"), f"there is no route for {unnamed!r}")
    yield from _mail_without_a_server(values)
    for section in ("aliases", "prices"):
        yield from _same_names(section, _fields(values.get(section)))


def _mail_without_a_server(values: Mapping[Any, Any]) -> Iterator[Problem]:
    if not _fields(values.get("notices")).get("smtp_host"):
        for name, recipient in _fields(values.get("recipients")).items():
            if _fields(recipient).get("mail"):
                yield Problem(("recipients", name, "mail"), "mail needs a server: set notices.smtp_host")


def _patterns(model: str) -> tuple[str, ...]:
    return (*specificity(model), *specificity(model.partition(":")[0]))


def _same_names(section: str, names: Mapping[Any, Any]) -> Iterator[Problem]:
    """Yields names that differ only in case or white space, because names are compared without them."""
    seen: dict[str, str] = {}
    for name in map(str, names):
        other = seen.setdefault(folded(name), name)
        if other != name:
            yield Problem((section, name), f"{other!r} is the same name in another spelling")


def _not_json(environ: Mapping[str, str]) -> list[str]:
    """Finds variables that pydantic cannot read. Its own error would name only their section."""
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
    """Variables that look like settings and are none: unknown sections, and one underscore where two belong.

    Others with our prefix are no mistake. Kubernetes sets GATEWAY_PORT and more for a service "gateway", and addresses
    such as tcp://192.0.2.1:80 in GATEWAY_SERVER_PORT for a service "gateway-server".
    """
    problems = []
    for name, value in environ.items():
        rest = name.removeprefix(ENV_PREFIX)
        if rest == name:
            continue
        section, delimiter, _ = rest.partition(DELIMITER)
        if delimiter and section.lower() not in Settings.model_fields:
            near = hint(section, Settings.model_fields)
            problems.append(f"environment {name}: there is no section {section.lower()!r}{near}")
        elif not delimiter and name not in _OTHERS and not value.startswith("tcp://") and (meant := _spelled(rest)):
            problems.append(f"environment {name}: two underscores stand between section and name: {meant}")
    return problems


_OTHERS: Final = frozenset({"GATEWAY_ADMIN_KEY"})
"""Variables of the command line whose names look like settings."""


def _spelled(rest: str) -> str:
    """Returns the setting that a name with single underscores means, or ""."""
    for section in Settings.model_fields:
        start = section.upper() + "_"
        if rest.startswith(start) and rest.removeprefix(start).lower() in settings_at(Settings, (section,)):
            return f"{ENV_PREFIX}{start}_{rest.removeprefix(start)}"
    return ""
