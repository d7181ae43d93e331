"""Docstrings name modules that exist, and a package's docstring names all of its modules."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.house import rules
from tests.house.conftest import EVERYWHERE, ROOT, Found

SOURCES: Final = frozenset(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(path for top in EVERYWHERE for path in (ROOT / top).rglob("*.py")),
        *(ROOT / "gateway").rglob("*.lua"),
    )
    if "__pycache__" not in path.parts
)
PACKAGES: Final = tuple(path for path in sorted((ROOT / "gateway").glob("*/**/__init__.py")))


def missing_modules(named: Iterable[str]) -> list[str]:
    """Return the named modules that no path of the project ends with."""
    return [name for name in named if not any(f"/{source}".endswith(f"/{name}") for source in SOURCES)]


def unlisted_modules(package: Path) -> list[str]:
    """Return the modules and packages beside an `__init__.py` that its docstring does not name."""
    docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    names = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in package.parent.glob("*/__init__.py")}
    return [name for name in sorted(names) if not re.search(rf"\b{name}\b", docstring)]


def absent_modules(package: Path) -> list[str]:
    """Return the names that a package's docstring lists, one per line, without a module or package of that name."""
    docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    listed = re.findall(r"^(?: {4})?([a-z_][a-z0-9_]*)(?:\.py)? {2,}\S", docstring, re.MULTILINE)
    return [
        name for name in listed if not any((package.parent / name).with_suffix(end).exists() for end in ("", ".py"))
    ]


def test_a_module_that_a_docstring_or_comment_names_exists(found: Found) -> None:
    named = found[rules.named_modules]
    missing = {path: missing_modules(names) for path, names in named.items() if ROOT / path != Path(__file__)}
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_package_lists_its_modules(package: Path) -> None:
    assert unlisted_modules(package) == []
    assert absent_modules(package) == []


def test_a_name_without_a_module_is_found() -> None:
    there = rules.named_modules("# as in store/keyspace.py, script.py and scripts/common.lua, never scripts/NAME.lua")
    assert len(there) == 3
    assert missing_modules(there) == []
    gone = rules.named_modules('"""See gone.py."""\nx = "other.py"  # as store/scripts/gone.lua')
    assert missing_modules(gone) == ["gone.py", "store/scripts/gone.lua"]


def test_a_module_without_a_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("one", "two", "sub/__init__"):
        (tmp_path / f"{name}.py").touch()
    package = tmp_path / "__init__.py"
    package.write_text('"""A package.\n\none   the first\n"""', encoding="utf-8")
    assert unlisted_modules(package) == ["sub", "two"]
    package.write_text('"""A package.\n\none      the first\nthree    gone\nsub   below\n"""', encoding="utf-8")
    assert absent_modules(package) == ["three"]
