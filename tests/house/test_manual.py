"""The manual has what the code has today, and its site is built with every link checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gateway.api.admin.access import RULES
from gateway.api.admin.sign_in import OPEN
from gateway.cli import command_line
from gateway.cli.signatures import Group
from gateway.config.messages import settings_at
from gateway.config.settings import Settings
from gateway.errors import CATALOGUE
from gateway.observability.metrics.catalogue import METRICS
from tests.support.manual import ROOT, references, stage


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return references()


def test_every_setting_is_in_its_section_of_the_reference(pages: dict[str, str]) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", pages["settings"], re.MULTILINE | re.DOTALL))
    assert set(sections) == set(Settings.model_fields)
    for section in Settings.model_fields:
        for place in ((section,), (section, "any"), (section, 0)):
            for name in settings_at(Settings, place):
                assert f"| `{name}` |" in sections[section], f"{section}.{name}"


def test_every_error_and_every_metric_is_in_its_reference(pages: dict[str, str]) -> None:
    rows = set(re.findall(r"^\| `([a-z0-9_]+)` \|", pages["errors"] + pages["metrics"], re.MULTILINE))
    assert rows == {*CATALOGUE, *METRICS}


def test_every_command_with_every_option_is_in_the_reference(pages: dict[str, str]) -> None:
    def walk(command: click.Command, words: tuple[str, ...]) -> None:
        if len(words) > 1:
            assert f"# {' '.join(words)}\n" in pages["cli"]
        for parameter in command.params:
            for name in parameter.opts:
                assert name in ("--help", "-h") or f"`{name}`" in pages["cli"] or not name.startswith("-"), name
        for name, child in command.children().items() if isinstance(command, Group) else ():
            walk(child, (*words, name))

    walk(command_line(), ("gateway",))


def test_every_call_of_the_admin_api_is_in_the_reference(pages: dict[str, str]) -> None:
    calls = set(re.findall(r"^## ([A-Z]+) /admin/v1(\S+)$", pages["admin-api"], re.MULTILINE))
    assert {f"{method} {path}" for method, path in calls} == {*RULES, *OPEN}


def built(directory: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "mkdocs.yml", directory)
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"],
        cwd=directory, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_site_is_built_with_every_link_in_order_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    stage(tmp_path / "build" / "manual")
    done = built(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "site" / "limits-and-credits.html").exists()
    assert "fonts.googleapis" not in (tmp_path / "build" / "site" / "index.html").read_text(encoding="utf-8")
    page = tmp_path / "build" / "manual" / "quickstart.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[gone](clients.md#no-such-heading)\n", encoding="utf-8")
    assert built(tmp_path).returncode != 0
