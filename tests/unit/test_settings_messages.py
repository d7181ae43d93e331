"""What is said of a wrong configuration: where, what, and what was probably meant; never a library's words."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.errors import SettingsError, Source
from gateway.config.positions import Place, nearest, positions
from gateway.config.settings import load_settings, settings_from

ROUTE = '[[routes]]\nmodel = "*"\nupstreams = ["siraya"]\n'
GOOD = f'[upstreams.siraya]\nbase_url = "https://llm.example/v1"\napi_keys = ["env:TEST_KEY"]\n{ROUTE}'


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "key")


def said(tmp_path: Path, content: str | bytes) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{GOOD}[server]\nprot = 1\n", "g.toml:8:1: server.prot: there is no such setting; did you mean 'port'?"),
        (f"port = 1\n{GOOD}", "g.toml:1:1: port: there is no such setting; it belongs into [server] or [admin]"),
        (f"{GOOD}[servr]\n", "g.toml:7:1: servr: there is no such setting; did you mean 'server'?"),
        (f"{GOOD}[log]\nurl = 1\n", "g.toml:8:1: log.url: there is no such setting; it belongs into [store]"),
        (f"{GOOD}[log]\nlevel = 'loud'\n", 'g.toml:8:1: log.level: must be "debug", "info", "warning" or "error"'),
        (f"{GOOD}[log]\nlevel = 5\n", 'g.toml:8:1: log.level: must be "debug", "info", "warning" or "error"'),
        (
            f"{GOOD}[limits]\nsend_max_output_tokens = 'perhaps'\n",
            'g.toml:8:1: limits.send_max_output_tokens: must be true or false or "auto"',
        ),
        (f"{GOOD}[server]\n  workers = 'x'\n", "g.toml:8:3: server.workers: must be a whole number"),
        (f"{GOOD}server.workers = 0\n", "g.toml:7:1: routes[0].server: there is no such setting"),
        (f"server = {{ port = 1, workers = 65 }}\n{GOOD}", "g.toml:1:22: server.workers: must be at most 64"),
        (GOOD.replace('["siraya"]', '[\n  "siraya",\n  "siraia",\n]'), "g.toml:6:1: routes[0].upstreams: there is no"),
        (GOOD.replace("https://", ""), "g.toml:2:1: upstreams.siraya.base_url: must be a URL without a query"),
        (
            GOOD.replace('"https://llm.example/v1"', "7"),
            "g.toml:2:1: upstreams.siraya.base_url: must be a text in quotes",
        ),
        (GOOD.replace("api_keys", "#"), "g.toml:1:1: upstreams.siraya.api_keys: is missing"),
        (f'{GOOD}[prices."*"]\ninput = "1"\n', 'g.toml:7:1: prices."*".output: is missing'),
        ("", "g.toml:1:1: upstreams: is missing"),
        ("[server]\nport = \n", "g.toml:2:8: is not TOML: Invalid value"),
        ("a = 1\n[server", "g.toml:2:8: is not TOML: "),
        (b"\xef\xbb\xbf[server]\n", "g.toml:1:1: begins with a byte order mark"),
        ("[server]".encode("utf-16"), "g.toml:1:1: is UTF-16"),
        (b"[server]\n# \xff\n", "g.toml:2:3: is not UTF-8"),
    ],
)
def test_a_mistake_has_its_line_and_column_and_plain_words(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert said(tmp_path, text)[0].startswith(expected)


def test_mistakes_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = said(tmp_path, f"[log]\nlevel = 1\n[server]\nport = -1\nhost = 1\n{GOOD.replace('https', 'gopher')}")
    lines = [int(problem.split(":")[1]) for problem in found]
    assert len(lines) == 4
    assert lines == sorted(lines)


PLACES = (
    *("server", "server.port", "server.trusted_proxies", "store.data_dir", "store.url", "admin.key", "aliases"),
    *("aliases.a", "ledger.burst", "limits.send_max_output_tokens", "state.encryption_keys", "routes", "prices"),
    *("upstreams", "upstreams.x", "upstreams.siraya.headers", "upstreams.siraya.operations"),
    *("prices.x", "prices.x.tiers", "prices.x.hours"),
)
EMPTY: st.SearchStrategy[Any] = st.sampled_from([None, [], {}, [{}]])


@given(
    value=st.one_of(EMPTY, st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    place=st.sampled_from(PLACES),
)
def test_no_value_brings_a_library_s_words_up(value: Any, place: str) -> None:
    values: dict[str, Any] = tomllib.loads(GOOD)
    *tables, name = place.split(".")
    table = values
    for key in tables:
        table = table.setdefault(key, {})
    table[name] = value
    try:
        settings_from(values, Source("g.toml"))
    except SettingsError as error:
        told = "\n".join(error.problems)
        for foreign in (
            "Input should",
            "pydantic",
            "pattern",
            "^",
            "Value error",
            "Field required",
            "dictionary",
        ):
            assert foreign not in told, told


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("GATEWAY_SERVER_PORT", "9000", "GATEWAY_SERVER__PORT"),
        ("GATEWAY_STORE_URL", "redis://store", "GATEWAY_STORE__URL"),
        ("GATEWAY_LIMITS_DEFAULT_MAX_OUTPUT_TOKENS", "5", "GATEWAY_LIMITS__DEFAULT_MAX_OUTPUT_TOKENS"),
    ],
)
def test_one_underscore_where_two_belong_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, meant: str
) -> None:
    monkeypatch.setenv(variable, value)
    [problem] = said(tmp_path, GOOD)
    assert problem == f"environment {variable}: two underscores stand between section and name: {meant}"


def test_what_a_cluster_sets_for_a_service_gateway_server_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SERVER_PORT", "tcp://192.0.2.1:80")
    monkeypatch.setenv("GATEWAY_SERVER_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "the command line's own")
    path = tmp_path / "g.toml"
    path.write_text(GOOD)
    assert load_settings(path).server.port == 8080


_TEXT = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=8)
_KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=6,
)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + "".join(f"\n  {_toml(each)}, # ]" for each in value) + "\n]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return str(value) if isinstance(value, int) else "'''" + value.replace("'", "") + "'''"


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield from _places(each, (*place, key))


@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.lists(st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=3))
def test_every_key_and_entry_of_any_document_has_a_position_where_it_stands(
    plain: dict[str, Any], tables: list[dict[str, Any]]
) -> None:
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for table in tables:
        lines += ["", "[[t.a]]  # a table", *(f'"{key}" = {_toml(value)}' for key, value in table.items())]
    text = "\n".join(lines)
    if "t" in plain:
        return
    values = tomllib.loads(text)
    found = positions(text)
    rows = text.split("\n")
    for place in _places(values):
        line, column = found[place]
        if isinstance(place[-1], str) and place not in {("t",), ("t", "a")}:
            assert rows[line - 1][column - 1 :].lstrip('"').startswith(place[-1])


def test_what_is_missing_stands_where_its_table_begins() -> None:
    found = positions("a = 1\n[b]\nc = 2\n")
    assert str(nearest(found, ("b", "d"))) == "2:1"
    assert str(nearest(found, ("x",))) == "1:1"
