"""The manual: its pages in one directory, with references that are generated from the code.

    python -m tests.support.manual build/manual      stages it; `make docs` then builds the site with mkdocs

Documents stay where readers of the repository expect them. Links between them become links between pages; links to
files that are no pages become plain text.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import click

from gateway.api.admin.config import admin_openapi
from gateway.app import build_app
from gateway.cli import command_line
from gateway.cli.signatures import Group
from gateway.config.settings import Settings, load_settings
from gateway.errors import CATALOGUE
from gateway.observability.metrics.catalogue import METRICS

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "gateway.example.toml"
_PAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ARCHITECTURE.md": "architecture.md",
        "CHANGELOG.md": "changelog.md",
        "SECURITY.md": "security.md",
        "deploy/README.md": "deployment.md",
        "deploy/OPERATIONS.md": "runbook.md",
        "deploy/metrics.md": "reference/metrics.md",
        "gateway.example.toml": "reference/settings.md",
    }
)
"""Files outside docs/ that are pages, or whose content a page has."""
_GENERATED: Final = frozenset({"reference/metrics.md", "reference/settings.md"})
_LINK: Final = re.compile(r"\[([^\]]*)\]\((?!https?://|mailto:)([^)\s#]*)(#[^)\s]*)?\)")
_RETRY: Final = MappingProxyType(
    {"wait": "after `retry-after`", "never": "not before something has changed", "client": "as the client sees fit"}
)


def stage(directory: Path) -> None:
    """Writes all pages."""
    shutil.rmtree(directory, ignore_errors=True)
    pages = _pages()
    for source, page in pages.items():
        if page not in _GENERATED:
            _write(directory / page, _linked((ROOT / source).read_text(encoding="utf-8"), source, page, pages))
    for name, text in references().items():
        _write(directory / "reference" / f"{name}.md", text)


def references() -> dict[str, str]:
    """Returns the generated pages by name."""
    return {
        "settings": _page("Settings", SETTINGS_HEAD, _settings()),
        "errors": _page("Errors", "Every error that the gateway itself answers: `code`, status and `type`.", _errors()),
        "metrics": _page("Metrics", "What `GET /metrics` shows.", _metrics()),
        "cli": _page("Command line", "Every command. `--help` behind any of them says the same.", _commands()),
        "admin-api": _page("Admin API", "Every call below `/admin/v1`, with an admin key as bearer.", _calls()),
    }


SETTINGS_HEAD: Final = (
    "Every setting with its default. The environment goes before the file: `GATEWAY_<SECTION>__<NAME>`, with two "
    "underscores. `gateway init --example` prints all of this as a file."
)


def _pages() -> dict[str, str]:
    pages = dict(_PAGES)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        inside = path.relative_to(ROOT / "docs").as_posix()
        pages[f"docs/{inside}"] = inside.replace("README.md", "index.md")
    return pages


def _linked(text: str, source: str, page: str, pages: Mapping[str, str]) -> str:
    def link(found: re.Match[str]) -> str:
        said, target, anchor = found[1], found[2], found[3] or ""
        if not target:
            return found[0]
        named = os.path.normpath((ROOT / source).parent / target)
        inside = Path(named).relative_to(ROOT).as_posix() if Path(named).is_relative_to(ROOT) else ""
        if inside not in pages:
            return said
        there = os.path.relpath(pages[inside], Path(page).parent)
        return f"[{said}]({there}{'' if pages[inside] in _GENERATED else anchor})"

    return _LINK.sub(link, text)


def _page(title: str, head: str, lines: Iterator[str]) -> str:
    return f"# {title}\n\n{head}\n\n" + "\n".join(lines) + "\n"


def _settings() -> Iterator[str]:
    """Yields a table for each section. What a setting does is in the example, which a test compares with the code."""
    section, comment = "", ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"(?:# )?\[+([a-z]+)", line):
            if header[1] != section and header[1] in Settings.model_fields:
                section = header[1]
                yield from (
                    "",
                    f"## {section}",
                    "",
                    comment.strip(),
                    "",
                    "| setting | default or example | what it does |",
                )
                yield "|---|---|---|"
            comment = ""
        elif section and (setting := re.fullmatch(r"(?:# )?([a-z0-9_]+) = (.+)", line)):
            yield f"| `{setting[1]}` | {_code(setting[2].partition('   #')[0].strip())} | {_cell(comment)} |"
            comment = ""
        else:
            comment = f"{comment} {line.removeprefix('#').strip()}" if line.startswith("#") else ""


def _errors() -> Iterator[str]:
    yield from ("| code | status | type | repeat it |", "|---|---|---|---|")
    for code, kind in sorted(CATALOGUE.items(), key=lambda row: (row[1].status, row[0])):
        yield f"| `{code}` | {kind.status} | `{kind.type}` | {_RETRY[kind.retry]} |"


def _metrics() -> Iterator[str]:
    yield from ("| metric | type | labels | what it says |", "|---|---|---|---|")
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{name}` | {metric.kind} | {labels} | {_cell(metric.text)} |"


def _commands() -> Iterator[str]:
    yield from _command(command_line(), ("gateway",))


def _command(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    children = command.children() if isinstance(command, Group) else {}
    options = [parameter for parameter in command.params if parameter.name != "help"]
    if len(words) > 1:
        yield from ("", f"{'#' * len(words)} {' '.join(words)}", "", _cell(command.help or ""), "")
    if options:
        yield from ("| argument or option | what it means |", "|---|---|")
    for parameter in options:
        named = ", ".join(f"`{name}`" for name in parameter.opts)
        argument = parameter.param_type_name == "argument"
        shown = f"`{(parameter.metavar or parameter.name).upper()}`" if argument else named
        yield f"| {shown} | {_cell(getattr(parameter, 'help', None) or '')} |"
    for name in sorted(children):
        yield from _command(children[name], (*words, name))


def _calls() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        found = admin_openapi(build_app(_some_settings(Path(directory))).app.routes)
    for path, item in sorted(found["paths"].items()):
        for method, call in item.items():
            yield from ("", f"## {method.upper()} {path}", "", _cell(call.get("description") or call["summary"]), "")
            fields = list(_fields(call, found["components"]["schemas"]))
            if fields:
                yield from ("| in | name | what it is |", "|---|---|---|", *fields)


def _fields(call: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    for parameter in call.get("parameters", ()):
        yield f"| {parameter['in']} | `{parameter['name']}` | {_cell(parameter.get('description', ''))} |"
    content = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = schemas.get(content.get("$ref", "").rpartition("/")[2], content)
    for name, field in schema.get("properties", {}).items():
        needed = "required. " if name in schema.get("required", ()) else ""
        yield f"| body | `{name}` | {needed}{_cell(field.get('description', ''))} |"


def _some_settings(directory: Path) -> Settings:
    """Returns the smallest settings: routes do not depend on them."""
    key = directory / "key"
    key.write_text("any key will do, since nothing is asked\n", encoding="ascii")
    path = directory / "gateway.toml"
    path.write_text(
        f'[store]\ndata_dir = "{directory}"\n[upstreams.a]\nbase_url = "https://llm.example/v1"\n'
        f'api_keys = ["file:{key}"]\n[[routes]]\nmodel = "*"\nupstreams = ["a"]\n'
    )
    return load_settings(path)


def _cell(text: str) -> str:
    """Returns text for a cell of a table."""
    words = " ".join(text.split())
    return (
        words.replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")
        if "`" not in words
        else words.replace("|", "\\|")
    )


def _code(text: str) -> str:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.replace("|", "\\|")
    return f"`{text}`"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
