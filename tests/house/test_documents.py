"""What the documents say is what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.billing.lifecycle import TRANSITIONS
from gateway.config.settings import Settings, load_settings
from gateway.errors import CATALOGUE
from tests.support.gateway import running_gateway, simulator
from tests.support.servers import valkey_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *(path for name in ("docs", "deploy", "benchmarks") for path in (ROOT / name).rglob("*.md")),
    )
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_diagram_of_states_is_made_from_the_table_of_transitions() -> None:
    lines = [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    assert blocks(ARCHITECTURE, "mermaid") == ["stateDiagram-v2\n" + "\n".join(lines) + "\n"]


def test_the_layers_are_those_that_import_linter_checks() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = next(contract["layers"] for contract in tools["importlinter"]["contracts"] if contract["type"] == "layers")
    names = [", ".join(re.findall(r"\w+", layer)) for layer in layers]
    assert [" ".join(block.split()) for block in blocks(ARCHITECTURE, "text")] == [" -> ".join(names)]


def test_the_readme_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRAYA_API_KEY", "key")
    path = tmp_path / "gateway.toml"
    path.write_text(blocks(README, "toml")[0], encoding="utf-8")
    assert isinstance(load_settings(path), Settings)
    assert tomllib.loads(path.read_text(encoding="utf-8"))["server"]["port"] == 8080


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    linked = [document.parent / target for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text)]
    named = [ROOT / target for target in re.findall(r"`((?:gateway|tests|deploy|benchmarks|docs)/[\w./-]+)`", text)]
    assert [str(path) for path in [*linked, *named] if not path.exists()] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's URL and a key."""
    with (
        valkey_server() as store,
        simulator() as upstream,
        running_gateway(store.url, upstream, tmp_path_factory.mktemp("data")) as gateway,
    ):
        yield gateway.url, gateway.new_key().text


def run(program: list[str], demo: tuple[str, str], text: str) -> str:
    url, key = demo
    text = text.replace("http://127.0.0.1:8080", url).replace("sk-gw-...", key)
    environment = {**os.environ, "GATEWAY_KEY": key}
    done = subprocess.run([*program, text], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_python_runs_as_it_stands(demo: tuple[str, str]) -> None:
    assert run([sys.executable, "-c"], demo, blocks(README, "python")[0]).count("Hello, world!") == 2


def test_the_readme_curl_runs_as_it_stands(demo: tuple[str, str]) -> None:
    curl = next(block for block in blocks(README, "sh") if block.startswith("curl"))
    assert '"status":"completed"' in run(["sh", "-c"], demo, curl)


def test_every_code_that_the_documents_mention_is_in_the_catalogue() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    mentioned = {code for text in texts for code in re.findall(r"\d{3} `(\w+)`", text)}
    assert mentioned
    assert mentioned <= set(CATALOGUE)
