"""`gateway prices import`: each row of the package's data loads, and charges what the package computes."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from click.testing import CliRunner, Result

from gateway.billing.cost import itemise
from gateway.billing.price_row import Price
from gateway.cli import command_line, price_catalogue
from gateway.cli.errors import CliError
from gateway.config.price_settings import PriceSettings
from gateway.config.settings import load_settings
from gateway.protocol.usage_reader import read_usage
from tests.cli.test_prices import HEAD, PLAIN, configuration
from tests.support.program import ROOT, run

DAY: Final = date(2026, 11, 29)
EARLY: Final = date(2026, 8, 1)
MOMENTS: Final = ("2026-11-29T12:00", "2026-11-30T02:30", "2026-12-01T07:00", "2031-01-01T20:00")
TOKENS: Final = ((1000, 200, 300, 100), (900_000, 100_000, 200_000, 7000))


@cache
def catalogue(day: date = DAY) -> price_catalogue.Catalogue:
    return price_catalogue.load(day)


@cache
def models() -> dict[str, tuple[Any, Any]]:
    snapshot = import_module("genai_prices.data_snapshot").get_snapshot()
    return {f"{one.id}/{model.id}": (one, model) for one in snapshot.providers for model in one.models}


def run_prices(*words: str) -> Result:
    return CliRunner().invoke(command_line(), ["prices", *words], env={"TEST_UPSTREAM_KEY": "not-used"})


class Case(NamedTuple):
    """One usage: input tokens, those of it that were read and written, output tokens; under a condition, at a time."""

    tokens: tuple[int, int, int, int]
    context: dict[str, str]
    at: str

    def by_package(self, provider: Any, model: Any) -> Decimal:
        names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
        usage = import_module("genai_prices.types").Usage(**dict(zip(names, self.tokens, strict=True)))
        moment = datetime.fromisoformat(self.at).replace(tzinfo=UTC)
        found = model.calc_price(usage, provider, genai_request_timestamp=moment, price_context=self.context or None)
        total: Decimal = found.total_price * 1_000_000_000
        return total

    def by_gateway(self, price: Price) -> int:
        whole, read, written, output = self.tokens
        usage = {
            "input_tokens": whole,
            "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
            "output_tokens": output,
            "total_tokens": whole + output,
        }
        context = {"service_tier" if name == "processing" else name: value for name, value in self.context.items()}
        found = read_usage("responses", usage, context)
        assert found is not None
        at_ms = int(datetime.fromisoformat(self.at).replace(tzinfo=UTC).timestamp() * 1000)
        return itemise(price, found, at_ms).nano_usd


def cases(model: Any) -> Iterator[Case]:
    contexts: list[dict[str, str]] = [{}]
    contexts += [
        dict(variant.when)
        for variant in model.price_variants or ()
        if variant.when.keys() <= {"service_tier", "processing", "speed"} and vars(variant.prices)
    ]
    moments = MOMENTS if isinstance(model.prices, list) else MOMENTS[:1]
    for context in contexts:
        yield from (Case(tokens, context, at) for tokens in TOKENS for at in moments)


def prices_of(model: Any) -> Iterator[dict[str, Any]]:
    conditional = model.prices if isinstance(model.prices, list) else []
    for one in (*conditional, *(model.price_variants or ())):
        yield vars(one.prices)
    if not conditional:
        yield vars(model.prices)


def is_of_tokens(model: Any) -> bool:
    """Whether the data prices both sides; what it lacks of an output's price is nothing to the package."""
    return all("per_request" not in one and "requests_kcount" not in one for one in prices_of(model))


def test_every_row_loads_with_the_gateways_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_UPSTREAM_KEY", "not-used")
    file = tmp_path / "prices.toml"
    done = run_prices("import", "--at", str(DAY), "--output", str(file))
    assert done.exit_code == 0, done.exception
    path = tmp_path / "gateway.toml"
    path.write_text(HEAD + file.read_text(encoding="utf-8"), encoding="utf-8")
    rows = load_settings(path).prices
    assert rows.keys() == {entry.model for entry in catalogue().entries if entry.row}
    assert len(rows) > 0.9 * len(models())
    for model, row in rows.items():
        priced = [one for one in prices_of(models()[model][1]) if one.get("input_mtok")]
        assert not priced or row.price().plain.rates["input"] > 0, model


@pytest.mark.parametrize("day", [EARLY, DAY], ids=str)
def test_a_row_charges_what_the_package_computes(day: date) -> None:
    """Up to the rounding of a cost, and of rates finer than a nano-dollar per million tokens."""
    compared = 0
    wrong = []
    for entry in catalogue(day).entries:
        provider, model = models()[entry.model]
        if entry.row is None or entry.lost or not is_of_tokens(model):
            continue
        price = PriceSettings.model_validate(entry.row).price()
        for case in cases(model):
            right, charged = case.by_package(provider, model), case.by_gateway(price)
            compared += 1
            if not right <= charged <= right + Decimal("1.01"):
                wrong.append((entry.model, case, right, charged))
    assert wrong == []
    assert compared > 5000


def test_what_a_row_cannot_say_is_a_comment_and_named() -> None:
    done = run_prices("import", "groq/whisper-large-v3", "--at", str(DAY))
    loss = "tiers.batch: audio_hours = 0.0555 has no counterpart"
    assert f"# {loss}\n" in done.stdout
    assert f"gateway: groq/whisper-large-v3: {loss}\n" in done.stderr
    row = tomllib.loads(done.stdout)["prices"]["groq/whisper-large-v3"]
    assert row == {"minimum_seconds": 10, "per_unit": {"hour": "0.111"}}


def test_a_model_without_a_price_gets_no_row() -> None:
    """A row of zeros would be free by accident."""
    unpriced = [entry for entry in catalogue().entries if entry.row is None]
    assert len(unpriced) > 100
    done = run_prices("import", unpriced[0].model, "--at", str(DAY))
    assert "prices" not in tomllib.loads(done.stdout)
    assert f"# {unpriced[0].model}: the data has no price\n" in done.stdout
    assert f"gateway: {unpriced[0].model}: the data has no price\n" in done.stderr


def test_later_prices_stand_below_the_day_from_which_they_are_in_force() -> None:
    entries = {entry.model: entry.row for entry in catalogue(EARLY).entries}
    row = entries["deepseek/deepseek-v4-flash"]
    assert row is not None
    assert (row["input"], list(row["from"])) == ("0.14", ["2026-08-17", "2026-09-10"])
    assert (row["from"]["2026-09-10"]["input"], row["from"]["2026-09-10"]["hours"][0]["input"]) == ("0.15", "0.3")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("openai/gpt-5.4",), {"openai/gpt-5.4"}),
        (("OpenAI/GPT-5.4", "groq/whisper-large-v3"), {"openai/gpt-5.4", "groq/whisper-large-v3"}),
        (("openai-decisions",), {"openai-decisions/gpt-6-luna"}),
    ],
    ids=["a model", "in any spelling", "a provider"],
)
def test_providers_and_models_are_chosen_by_name(names: tuple[str, ...], found: set[str]) -> None:
    assert {entry.model for entry in catalogue().chosen(names)} == found


def test_a_name_that_the_data_lacks_is_refused() -> None:
    done = run_prices("import", "openai/gpt-5.4", "openai/gpt-0")
    assert isinstance(done.exception, CliError)
    assert "openai/gpt-0: genai-prices" in str(done.exception)
    assert done.stdout == ""


def test_a_file_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("mine", encoding="utf-8")
    refused = run_prices("import", "openai/gpt-5.4", "--output", str(file))
    assert "exists: --yes replaces it" in str(refused.exception)
    assert file.read_text(encoding="utf-8") == "mine"
    assert run_prices("import", "openai/gpt-5.4", "--output", str(file), "--yes").exit_code == 0
    assert "openai/gpt-5.4" in tomllib.loads(file.read_text(encoding="utf-8"))["prices"]


def test_without_the_package_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    shadow = tmp_path / "genai_prices"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError\n", encoding="utf-8")
    done = run(
        "prices", "import", "openai", cwd=tmp_path, env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    )
    assert (done.code, done.out) == (1, "")
    assert done.err == 'gateway: the package genai-prices is missing: pip install "openresponses-gateway[prices]"\n'


def data_row(model: str) -> dict[str, Any]:
    row = next(entry.row for entry in catalogue().entries if entry.model == model)
    assert row is not None
    return dict(row)


def differences(path: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = run_prices("diff", *words, "--config", str(path), "--at", str(DAY), "--json")
    return done.exit_code, json.loads(done.stdout)["differences"]


def test_rows_as_they_were_imported_do_not_differ(tmp_path: Path) -> None:
    rows = {entry.model: entry.row for entry in catalogue().entries if entry.row and entry.model.startswith("openai/")}
    path = configuration(tmp_path, {**rows, "own/model": PLAIN})
    done = run_prices("diff", "--config", str(path), "--at", str(DAY))
    assert (done.exit_code, done.stdout) == (0, f"No difference in {len(rows)} rows.\n")
    assert done.stderr == "gateway: own/model: the data has no price for it\n"


@pytest.mark.parametrize(
    ("changes", "rate", "file", "data"),
    [
        ({"input": "2.4"}, "input", "2.4", "2.5"),
        ({"per_call": {"file_search": "0.0025"}}, "per_call.web_search", None, "0.01"),
        ({"context_tokens": 400_000}, "context_tokens", "400000", "1050000"),
        (
            {"above": {"272000": {"input": "5", "cached_input": "0.5", "output": "22"}}},
            "above.272000: output",
            "22",
            "22.5",
        ),
        ({"tiers": {}}, "tiers.flex: cached_input", "0.25", "0.13"),
        ({"factor": "1.1"}, "output", "16.5", "15"),
        ({"hours": [{"from": "01:00", "to": "02:00", "output": "16"}]}, "Sun 01:00: output", "16", "15"),
        ({"from": {"2026-12-01": {"input": "9", "output": "15"}}}, "from 2026-12-01: input", "9", "2.5"),
    ],
    ids=["rate", "fee", "context", "step", "tier", "factor", "hours", "version"],
)
def test_what_differs_is_told_and_the_command_fails(
    changes: dict[str, Any], rate: str, file: str | None, data: str, tmp_path: Path
) -> None:
    path = configuration(tmp_path, {"openai/GPT-5.4": {**data_row("openai/gpt-5.4"), **changes}})
    code, found = differences(path)
    assert code == 1
    assert {"model": "openai/GPT-5.4", "rate": rate, "file_usd": file, "data_usd": data} in found


def test_a_row_that_states_factors_is_the_same_as_one_that_states_the_rates(tmp_path: Path) -> None:
    row = data_row("openai/gpt-5.4")
    row["above"] = {"272000": {"factor": "2", "output": "22.5"}}
    assert differences(configuration(tmp_path, {"openai/gpt-5.4": row})) == (0, [])


def test_a_difference_is_a_line_of_a_table_for_people(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"openai/gpt-5.4": {**data_row("openai/gpt-5.4"), "input": "2.4"}})
    done = run_prices("diff", "openai", "--config", str(path), "--at", str(DAY))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["MODEL", "RATE", "FILE", "USD", "DATA", "USD"], ["openai/gpt-5.4", "input", "2.4", "2.5"]]
    assert done.exit_code == 1
