"""The configuration: file, environment, secrets, and the messages for mistakes.

The example file is compared with the code.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config.errors import SettingsError
from gateway.config.notice_settings import RecipientSettings
from gateway.config.price_settings import PriceSettings
from gateway.config.route_settings import RouteSettings
from gateway.config.settings import Settings, load_settings
from gateway.config.upstream_settings import UpstreamSettings

EXAMPLE = Path(__file__).parents[2] / "gateway.example.toml"

GOOD = """
[upstreams.siraya]
base_url = "https://llm.siraya.pro/v1"
api_keys = ["env:TEST_PROVIDER_KEY"]
[[routes]]
model = "*"
upstreams = ["siraya"]
[prices."*"]
input = "5.00"
output = "25.00"
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    """Returns the messages for a configuration, without the file's name, line and column."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    where = rf"{re.escape(str(tmp_path / 'gateway.toml'))}:\d+:\d+: "
    return [re.sub(where, "", problem) for problem in caught.value.problems]


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert settings.server.port == 8080
    assert settings.store.url == "embedded"
    assert settings.upstreams["siraya"].api_keys[0].get_secret_value() == "provider-key"
    assert settings.router().resolve("any/model").candidates == ("siraya",)


@pytest.mark.parametrize(
    ("variable", "value", "section", "name", "expected"),
    [
        ("GATEWAY_SERVER__PORT", "9000", "server", "port", 9000),
        ("GATEWAY_STORE__URL", "redis://store:6379", "store", "url", "redis://store:6379"),
        ("GATEWAY_LIMITS__DEFAULT_MAX_OUTPUT_TOKENS", "7", "limits", "default_max_output_tokens", 7),
        ("GATEWAY_LEDGER__HOLD_TTL_S", "2.5", "ledger", "hold_ttl_s", 2.5),
        ("GATEWAY_ERRORS__NUMERIC_CODES", "true", "errors", "numeric_codes", True),
        ("GATEWAY_LOG__LEVEL", "error", "log", "level", "error"),
    ],
)
def test_the_environment_goes_before_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    section: str,
    name: str,
    expected: object,
) -> None:
    monkeypatch.setenv(variable, value)
    settings = load(tmp_path, f"[server]\nport = 1\n{GOOD}")
    assert getattr(getattr(settings, section), name) == expected


def test_one_field_of_an_upstream_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_UPSTREAMS__SIRAYA__BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OTHER_KEY", "other")
    monkeypatch.setenv("GATEWAY_UPSTREAMS__SIRAYA__API_KEYS", '["env:OTHER_KEY", "env:TEST_PROVIDER_KEY"]')
    upstream = load(tmp_path, GOOD).upstreams["siraya"]
    assert upstream.base_url == "http://127.0.0.1:1/v1"
    assert [key.get_secret_value() for key in upstream.api_keys] == ["other", "provider-key"]


def test_routes_and_prices_can_come_from_the_environment_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ROUTES", '[{"model": "a/*", "upstreams": ["siraya"]}]')
    monkeypatch.setenv("GATEWAY_PRICES", '{"a/b": {"input": "1", "output": "2"}}')
    settings = load(tmp_path, GOOD)
    assert [route.model for route in settings.routes] == ["a/*"]
    assert set(settings.prices) == {"*", "a/b"}


def test_every_mistake_is_reported_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = """
[server]
port = 99999
prot = 1
[upstreams.siraya]
base_url = "https://llm.siraya.pro/v1"
api_keys = ["env:NOT_THERE", "file:/not/there", "sk-the-secret-itself"]
[[routes]]
model = "*"
upstreams = ["x"]
[[routes]]
model = "*"
upstreams = ["siraya"]
[[routes]]
model = "a *"
upstreams = ["siraya"]
weights = [1, 2]
[prices."*"]
input = 5.00
output = "-1"
[prices."a/b"]
input = "1,2"
"""
    assert sorted(problems(tmp_path, text)) == [
        'prices."*".input: a price is a decimal string in quotes, such as "1.25"',
        'prices."*".output: a price lies between 0 and 1000000 USD per million tokens',
        "prices.\"a/b\".input: '1,2' is not a decimal amount of USD, such as 1.25",
        'prices."a/b".output: is missing',
        "routes[0].upstreams: there is no upstream 'x'",
        "routes[1].model: '*' has a route already",
        'routes[2].model: a model is an exact id, "provider/*" or "*"',
        "server.port: must be at most 65535",
        "server.prot: there is no such setting; did you mean 'port'?",
        "upstreams.siraya.api_keys[0]: the environment variable NOT_THERE is not set",
        "upstreams.siraya.api_keys[1]: the file /not/there cannot be read: No such file or directory",
        'upstreams.siraya.api_keys[2]: a secret is given as "env:NAME" or "file:PATH"',
    ]


def test_a_mistake_never_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN__KEY", "hunter2-in-the-clear")
    text = GOOD.replace("env:TEST_PROVIDER_KEY", "hunter2-in-the-clear")
    found = problems(tmp_path, text)
    assert len(found) == 2
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GATEWAY_SERVER__PORT", "x", "environment GATEWAY_SERVER__PORT: server.port: must be a whole number"),
        ("GATEWAY_SERVER__PROT", "1", "environment GATEWAY_SERVER__PROT: server.prot: there is no such setting"),
        ("GATEWAY_SERVR__PORT", "1", "environment GATEWAY_SERVR__PORT: there is no section 'servr'"),
        ("GATEWAY_UPSTREAMS__SIRAYA__API_KEYS", "x", "environment GATEWAY_UPSTREAMS__SIRAYA__API_KEYS: must be JSON"),
        ("GATEWAY_UPSTREAMS__SIRAYA__BASE_URL", "x", "environment GATEWAY_UPSTREAMS__SIRAYA__BASE_URL: upstreams.si"),
        ("GATEWAY_LOG", "debug", "environment GATEWAY_LOG: must be JSON"),
    ],
)
def test_a_mistake_in_the_environment_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    [problem] = problems(tmp_path, GOOD)
    assert problem.startswith(said)


def test_variables_that_a_cluster_sets_for_a_service_named_gateway_are_no_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "tcp://192.0.2.1:8080")
    monkeypatch.setenv("GATEWAY_SERVICE_HOST", "192.0.2.1")
    assert load(tmp_path, GOOD).server.port == 8080


def test_an_alias_must_lead_to_a_route(tmp_path: Path) -> None:
    text = GOOD.replace('model = "*"', 'model = "openai/*"') + '[aliases]\nfast = "openai/gpt"\nbad = "other/gpt"\n'
    assert problems(tmp_path, text) == ["aliases.bad: there is no route for 'other/gpt'"]


def test_the_model_of_requests_without_one_must_lead_to_a_route(tmp_path: Path) -> None:
    text = GOOD.replace('model = "*"', 'model = "openai/*"')
    assert problems(tmp_path, text + '[routing]\nunnamed_model = "other/gpt"\n') == [
        "routing.unnamed_model: there is no route for 'other/gpt'"
    ]
    settings = load(tmp_path, text + '[routing]\nunnamed_model = "OpenAI/gpt"\n')
    assert settings.router().unnamed_model == "OpenAI/gpt"


def test_an_upstream_s_name_is_one_that_the_environment_can_spell(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("siraya]", "Siraya]").replace('["siraya"]', '["Siraya"]'))
    assert found == ['upstreams.Siraya: a name has lower-case letters, digits, "_" and "-", 64 at most']


def test_an_admin_key_whose_variable_is_not_set_means_no_admin_api(tmp_path: Path) -> None:
    assert load(tmp_path, f'[admin]\nkey = "env:NOT_THERE"\n{GOOD}').admin.key is None
    assert problems(tmp_path, f'[admin]\nkey = "file:/not/there"\n{GOOD}') == [
        "admin.key: the file /not/there cannot be read: No such file or directory"
    ]


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n", encoding="ascii")
    settings = load(tmp_path, GOOD.replace("env:TEST_PROVIDER_KEY", f"file:{tmp_path / 'key'}"))
    assert settings.upstreams["siraya"].api_keys[0].get_secret_value() == "from-a-file"
    assert "from-a-file" not in repr(settings)


@pytest.mark.parametrize(("text", "said"), [("[server", "is not TOML"), ("", "upstreams: is missing")])
def test_what_is_no_configuration_is_said_to_be_none(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)[0]


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml: cannot be read: No such file or directory"):
        load_settings(tmp_path / "nothing.toml")


# --- gateway.example.toml ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A setting as the example shows it."""

    active: bool
    value: Any
    comment: str


def example() -> dict[tuple[str, str], Shown]:
    """Returns what the example says: (section, setting) -> Shown. A section is a field of Settings."""
    found: dict[tuple[str, str], Shown] = {}
    section, comment = "", ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if (header := re.match(r"(?:# )?\[+([a-z]+)", line)) and header[1] in Settings.model_fields:
            section, comment = header[1], ""
        elif section and (setting := re.fullmatch(r"(# )?([a-z0-9_]+) = (.+)", line)):
            value = tomllib.loads(f"value = {setting[3]}")["value"]
            found.setdefault((section, setting[2]), Shown(not setting[1], value, comment))
            comment = ""
        else:
            comment += line.removeprefix("#") if line.startswith("#") else ""
    return found


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Yields every setting with its section."""
    tables: dict[str, type[BaseModel]] = {
        "upstreams": UpstreamSettings,
        "routes": RouteSettings,
        "prices": PriceSettings,
        "recipients": RecipientSettings,
    }
    for section, field in Settings.model_fields.items():
        annotation = field.annotation
        model = tables.get(section) or (annotation if isinstance(annotation, type) else None)
        if model is not None and issubclass(model, BaseModel):
            for name, info in model.model_fields.items():
                yield section, info.alias or name, info


def bounds(info: FieldInfo) -> Iterator[str]:
    """Yields a setting's bounds as the example writes them."""
    by_kind = {type(bound): bound for bound in info.metadata}
    for argument in typing.get_args(info.annotation):
        for nested in getattr(argument, "__metadata__", ()):
            by_kind.update({type(bound): bound for bound in getattr(nested, "metadata", ())})
    lowest, over, highest, least, most = (
        getattr(by_kind.get(kind), name, None)
        for kind, name in (
            (annotated_types.Ge, "ge"),
            (annotated_types.Gt, "gt"),
            (annotated_types.Le, "le"),
            (annotated_types.MinLen, "min_length"),
            (annotated_types.MaxLen, "max_length"),
        )
    )
    if over is not None:
        yield f"[over {over}, at most {highest}]"
    elif lowest is not None:
        yield f"[{lowest} to {highest}]"
    if most is not None:
        yield f"[{least} to {most} characters]"
    elif least is not None:
        yield f"[at least {least}]"
    if typing.get_origin(info.annotation) is typing.Literal:
        yield from (f'"{choice}"' for choice in typing.get_args(info.annotation))


def test_the_example_shows_every_setting_and_no_other() -> None:
    assert {(section, name) for section, name, _ in fields()} == set(example())


@pytest.mark.parametrize(
    ("section", "name", "info"), [pytest.param(*field, id=f"{field[0]}.{field[1]}") for field in fields()]
)
def test_the_example_explains_each_setting(section: str, name: str, info: FieldInfo) -> None:
    shown = example()[section, name]
    assert len(shown.comment.split()) > 1, "a sentence"
    for bound in bounds(info):
        assert bound in shown.comment
    default = info.default
    if default is None:
        assert not shown.active or section == "prices" or "none by default" in shown.comment
        assert "default" in shown.comment
    elif default is not PydanticUndefined and section != "prices":
        plain = list(default) if isinstance(default, tuple) else str(default) if isinstance(default, Path) else default
        assert (shown.value, type(shown.value)) == (plain, type(plain))


def test_the_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRAYA_API_KEY", "key")
    monkeypatch.delenv("GATEWAY_ADMIN_KEY", raising=False)
    settings = load_settings(EXAMPLE)
    assert settings.router().resolve("openai/gpt-5.2").price.plain.per_million("output") == 10_000_000_000


@pytest.mark.parametrize(("characters", "accepted"), [(31, False), (32, True)])
def test_a_root_admin_key_of_fewer_than_32_characters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int, *, accepted: bool
) -> None:
    monkeypatch.setenv("ROOT_KEY", "k" * characters)
    text = f'[admin]\nkey = "env:ROOT_KEY"\n{GOOD}'
    if accepted:
        assert load(tmp_path, text).admin.key is not None
    else:
        [problem] = problems(tmp_path, text)
        assert "at least 32 characters" in problem
        assert "kkk" not in problem


@pytest.mark.parametrize(("characters", "accepted"), [(31, False), (32, True)])
def test_an_encryption_key_of_fewer_than_32_characters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int, *, accepted: bool
) -> None:
    monkeypatch.setenv("STATE_KEY", "k" * characters)
    text = f'[state]\nencryption_keys = ["env:STATE_KEY"]\n{GOOD}'
    if accepted:
        assert len(load(tmp_path, text).state.encryption_keys) == 1
    else:
        [problem] = problems(tmp_path, text)
        assert "at least 32 characters" in problem
        assert "kkk" not in problem


@pytest.mark.parametrize(("number", "accepted"), [(16, True), (17, False)])
def test_there_are_16_encryption_keys_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, accepted: bool
) -> None:
    monkeypatch.setenv("STATE_KEY", "k" * 32)
    text = f"[state]\nencryption_keys = {['env:STATE_KEY'] * number}\n{GOOD}"
    if accepted:
        assert len(load(tmp_path, text).state.encryption_keys) == number
    else:
        assert "16 encryption keys at most" in problems(tmp_path, text)[0]


@pytest.mark.parametrize("ending", ["/responses", "/chat/completions", "/responses/"])
def test_a_base_url_that_ends_in_an_endpoint_is_named(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_BASE_URL_KEY", "secret")
    with pytest.raises(ValidationError) as refused:
        UpstreamSettings(base_url=f"https://provider.example/v1{ending}", api_keys=("env:TEST_BASE_URL_KEY",))
    assert "https://provider.example/v1" in str(refused.value)
