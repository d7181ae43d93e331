"""`gateway check` names the models of which nobody says how much a request may read that does not show it."""

from pathlib import Path

import pytest

from gateway.cli.check import check

HEAD = """
[upstreams.one]
base_url = "https://provider.example/v1"
api_keys = ["env:TEST_PROVIDER_KEY"]
"""
KNOWN = 'input = "1"\noutput = "10"\ncontext_tokens = 400000\n'
UNKNOWN = 'input = "1"\noutput = "10"\n'


def route(model: str, more: str = "") -> str:
    return f'[[routes]]\nmodel = "{model}"\nupstreams = ["one"]\n{more}\n'


def price(model: str, row: str = UNKNOWN) -> str:
    return f'[prices."{model}"]\n{row}\n'


RESERVE = "reserve_input_tokens = 50000"
CASES = [
    ("a context", route("*") + price("a/b", KNOWN), []),
    ("neither", route("*") + price("a/b") + price("a/c", KNOWN), ["a/b"]),
    ("a reserve of the route", route("*", RESERVE) + price("a/b"), []),
    ("a reserve of another route", route("a/c", RESERVE) + route("*") + price("a/b") + price("a/c"), ["a/b"]),
    ("a reserve for all", f"[limits]\n{RESERVE}\n" + route("*") + price("a/b"), []),
    ("a pattern's price", route("*") + price("*"), ["*"]),
    ("a route below a pattern's price", route("a/b") + price("*"), ["a/b"]),
    ("an alias below patterns", route("*") + '[aliases]\nfast = "a/b"\n' + price("*", UNKNOWN), ["*", "a/b"]),
    ("a later version", route("*") + price("a/b", KNOWN + f'[prices."a/b".from."2027-01-01"]\n{UNKNOWN}'), ["a/b"]),
    ("free", route("*") + price("a/b", 'input = "0"\noutput = "0"\n'), []),
    ("fees alone", route("*") + price("a/b", 'per_image = { default = "0.04" }\n'), []),
    ("no route", route("x/*") + price("a/b"), []),
    ("another spelling", route("A/B", RESERVE) + route("*") + price("a/b"), []),
]


@pytest.mark.parametrize(("text", "named"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_models_of_unknown_context_are_named(
    text: str, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")
    path = tmp_path / "gateway.toml"
    path.write_text(HEAD + text)
    check(path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "neither context_tokens" in line]
    names = [line.removeprefix("  hold").partition(":")[0].strip() for line in lines]
    assert names == ([", ".join(named)] if named else [])


DEAR = [
    ("by its context alone", route("*") + price("a/b", KNOWN) + price("a/c"), "a/b: no max_output"),
    ("several", route("*") + price("a/b", KNOWN) + price("a/c", KNOWN), "a/b, a/c: no max_output"),
    ("an own maximum", route("*") + price("a/b", KNOWN + "max_output_tokens = 1000\n"), ""),
    ("a route's default", route("*", "default_max_output_tokens = 1000") + price("a/b", KNOWN), ""),
    ("a bound that is sent", "[limits]\nsend_max_output_tokens = true\n" + route("*") + price("a/b", KNOWN), ""),
    ("free output", route("*") + price("a/b", KNOWN.replace("10", "0")), ""),
]


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in DEAR], ids=[case[0] for case in DEAR])
def test_models_whose_longest_answer_is_a_guess_are_named_with_what_is_held(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")
    path = tmp_path / "gateway.toml"
    path.write_text(HEAD + text)
    check(path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "no max_output_tokens" in line]
    assert [said in line and "4 USD" in line for line in lines] == ([True] if said else [])
