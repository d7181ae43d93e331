"""`gateway prices explain`: what it says is what the gateway charges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from gateway.billing.money import format_usd
from gateway.cli import command_line
from gateway.cli.errors import CliError
from gateway.cli.price_toml import written

CASES: Final = json.loads((Path(__file__).parents[1] / "data/prices/cases.json").read_text(encoding="utf-8"))
HEAD: Final = """
[upstreams.one]
base_url = "http://127.0.0.1:9/v1"
api_keys = ["env:TEST_UPSTREAM_KEY"]
[aliases]
fast = "openai/asked"
[[routes]]
model = "*"
upstreams = ["one"]
"""
PLAIN: Final = {"input": "1.00", "cached_input": "0.10", "output": "10.00"}
USAGE: Final = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40},
    "output_tokens": 10,
    "total_tokens": 110,
}


@pytest.fixture(autouse=True)
def _upstream_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_UPSTREAM_KEY", "not-used")


def configuration(directory: Path, rows: dict[str, Any], head: str = HEAD) -> Path:
    path = directory / "gateway.toml"
    path.write_text(head + "".join(written(model, row) for model, row in rows.items()), encoding="utf-8")
    return path


def run_prices(*words: str, given: object = None) -> Result:
    text = given if isinstance(given, str) else json.dumps(given)
    return CliRunner().invoke(command_line(), ["prices", *words], input=text)


def explained(path: Path, *words: str, given: object) -> dict[str, Any]:
    done = run_prices("explain", *words, "--config", str(path), "--json", given=given)
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(path: Path, *words: str, given: object) -> str:
    done = run_prices("explain", *words, "--config", str(path), given=given)
    assert isinstance(done.exception, CliError)
    return str(done.exception)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_cost_is_explained_to_the_nano_dollar(case: dict[str, Any], tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": case["price"], **(case.get("other_prices") or {})})
    given = {**case["answer"], "usage": case["usage"]} if case["answer"] else case["usage"]
    words = ["openai/asked", "--dialect", case["dialect"], "--at", case.get("ended_at") or "2026-11-29T12:00:00Z"]
    if case.get("request"):
        (tmp_path / "request.json").write_text(json.dumps(case["request"]), encoding="utf-8")
        words += ["--request", str(tmp_path / "request.json")]
    found = explained(path, *words, given=given)
    assert found["cost_usd"] == format_usd(case["expected_nano_usd"]), found["lines"]
    assert not found["unpriced"]


@pytest.mark.parametrize("asked", ["openai/asked", "OPENAI/Asked", "fast", "openai/asked:online", " openai/asked"])
def test_a_model_is_read_as_that_of_a_request(asked: str, tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN, "openai/*": {"input": "90", "output": "90"}})
    found = explained(path, asked, given=USAGE)
    assert (found["row"], found["cost_usd"]) == ("openai/asked", "0.000164")


def test_a_pattern_is_the_row_of_a_model_that_has_none(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/*": PLAIN})
    assert explained(path, "openai/other", given=USAGE)["row"] == "openai/*"


def test_the_lines_and_what_they_come_to_are_printed(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN})
    done = run_prices("explain", "fast", "--config", str(path), given=USAGE)
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[:4] == [
        ["COST", "OF", "QUANTITY", "UNIT", "RATE", "USD", "AMOUNT", "USD"],
        ["input", "60", "1M", "tokens", "1", "0.00006"],
        ["cached_input", "40", "1M", "tokens", "0.1", "0.000004"],
        ["output", "10", "1M", "tokens", "10", "0.0001"],
    ]
    assert ["cost", "0.000164"] in table
    assert ["row", "openai/asked"] in table


def test_the_version_in_force_at_a_time_is_named(tmp_path: Path) -> None:
    later = {"input": "2.00", "output": "20.00"}
    path = configuration(tmp_path, {"openai/asked": {**PLAIN, "from": {"2026-12-01": later}}})
    before = explained(path, "fast", "--at", "2026-11-30T23:59:59Z", given=USAGE)
    after = explained(path, "fast", "--at", "2026-12-01", given=USAGE)
    assert (before["in_force_from"], before["cost_usd"]) == (None, "0.000164")
    assert (after["in_force_from"], after["cost_usd"]) == ("2026-12-01", "0.0004")
    assert before["price"] != after["price"] == f"{after['price'][:8]}@2026-12-01"


def test_what_no_price_covers_and_what_contradicts_itself_is_named(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN})
    answer = {"service_tier": "ultrafast", "usage": {**USAGE, "total_tokens": 999}}
    found = explained(path, "fast", given=answer)
    assert found["unpriced"] == ["tier:ultrafast"]
    assert found["contradictions"]
    printed = run_prices("explain", "fast", "--config", str(path), given=answer).stdout
    assert "tier:ultrafast" in printed
    assert found["contradictions"][0] in printed


@pytest.mark.parametrize(
    ("given", "dialect"),
    [
        (USAGE, "responses"),
        ({"object": "response", "status": "completed", "usage": USAGE}, "responses"),
        ({"type": "response.completed", "response": {"object": "response", "usage": USAGE}}, "responses"),
        ({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens": 10}, "chat"),
        ({"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 10}, "messages"),
        (
            {"type": "message", "usage": {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 10}},
            "messages",
        ),
    ],
    ids=["usage", "response", "event", "chat usage", "messages usage", "message"],
)
def test_a_usage_and_a_whole_answer_are_read_without_a_dialect(given: object, dialect: str, tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN})
    found = explained(path, "fast", given=given)
    assert (found["dialect"], found["cost_usd"]) == (dialect, "0.000164")


def test_units_of_other_dialects_are_read(tmp_path: Path) -> None:
    rows = {"groq/whisper": {"minimum_seconds": 10, "per_unit": {"hour": "0.36"}}, "x/rerank": {}}
    rows["x/rerank"] = {"per_unit": {"search_unit": "0.002"}}
    path = configuration(tmp_path, rows)
    heard = explained(path, "groq/whisper", "--dialect", "transcription", given={"text": "hello", "duration": 3.5})
    ranked = explained(
        path, "x/rerank", "--dialect", "rerank", given={"results": [], "meta": {"billed_units": {"search_units": 2}}}
    )
    assert (heard["cost_usd"], ranked["cost_usd"]) == ("0.001", "0.004")


def test_a_route_priced_by_the_answer_uses_the_model_that_answered(tmp_path: Path) -> None:
    rows = {"openai/asked": PLAIN, "openai/other": {"input": "2.00", "output": "20.00"}}
    path = configuration(tmp_path, rows, HEAD + 'price_by = "answered"\n')
    found = explained(path, "fast", given={"model": "other", "usage": USAGE})
    assert (found["row"], found["cost_usd"]) == ("openai/other", "0.0004")
    unlisted = explained(path, "fast", given={"model": "third", "usage": USAGE})
    assert (unlisted["row"], unlisted["cost_usd"]) == ("openai/asked", "0.000164")
    assert unlisted["unpriced"] == ["model:third"]


def test_a_route_that_charges_the_upstreams_own_cost_says_so(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN}, HEAD + 'cost_source = "upstream"\n')
    stated = explained(path, "fast", given={**USAGE, "cost": "0.5"})
    assert (stated["cost_usd"], stated["note"]) == (
        "0.5",
        "the route charges the upstream's own cost, not these lines",
    )
    missing = explained(path, "fast", given=USAGE)
    assert missing["cost_usd"] == "0.000164"
    assert "not stated here" in missing["note"]


@pytest.mark.parametrize(
    ("words", "given", "why"),
    [
        (["none/such"], USAGE, "has no price"),
        (["fast"], "{", "standard input is not JSON"),
        (["fast"], [1], "standard input is not a JSON object"),
        (["fast"], {"prompt_tokens": 0, "completion_tokens": 0}, "no usage can be read here as chat"),
        (["fast"], {"input_tokens": "many"}, "no usage can be read here as responses"),
        (["fast", "--dialect", "morse"], USAGE, "'morse' is no dialect: it is one of chat, completions"),
        (["fast", "--at", "soon"], USAGE, "'soon' is no time"),
        (["fast", "--request", "missing.json"], USAGE, "missing.json: cannot be read"),
    ],
    ids=["model", "no JSON", "no object", "zeros", "no usage", "dialect", "time", "request"],
)
def test_what_cannot_be_explained_is_refused(words: list[str], given: object, why: str, tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/asked": PLAIN})
    assert why in refusal(path, *words, given=given)
