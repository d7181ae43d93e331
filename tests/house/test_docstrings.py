"""Docstrings name modules that exist, and a package's docstring names all of its modules."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = tuple(sorted(path for top in ("gateway", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")))
SOURCES: Final = frozenset(
    path.relative_to(ROOT).as_posix()
    for path in (*PYTHON, *(ROOT / "gateway").rglob("*.lua"))
    if "__pycache__" not in path.parts
)
PACKAGES: Final = tuple(path for path in sorted((ROOT / "gateway").glob("*/**/__init__.py")))
# A path or a file name of a module. In capitals it stands for any: scripts/NAME.lua.
NAMED: Final = re.compile(r"\b[a-z_][a-z0-9_/]*\.(?:py|lua)\b")


def prose(source: str) -> Iterator[str]:
    """Yield the docstrings and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def missing_modules(text: str) -> list[str]:
    """Return the modules that a text names and that no path of the project ends with."""
    return [name for name in NAMED.findall(text) if not any(f"/{source}".endswith(f"/{name}") for source in SOURCES)]


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


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_that_a_docstring_or_comment_names_exists(path: Path) -> None:
    if path != Path(__file__):
        assert [name for text in prose(path.read_text(encoding="utf-8")) for name in missing_modules(text)] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_package_lists_its_modules(package: Path) -> None:
    assert unlisted_modules(package) == []
    assert absent_modules(package) == []


def test_a_name_without_a_module_is_found() -> None:
    assert missing_modules("as in store/keyspace.py, script.py and scripts/common.lua, never scripts/NAME.lua") == []
    assert missing_modules("see gone.py and store/scripts/gone.lua") == ["gone.py", "store/scripts/gone.lua"]
    assert list(prose('"""See gone.py."""\nx = "gone.py"  # as gone.py')) == ["See gone.py.", "# as gone.py"]


def test_a_module_without_a_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("one", "two", "sub/__init__"):
        (tmp_path / f"{name}.py").touch()
    package = tmp_path / "__init__.py"
    package.write_text('"""A package.\n\none   the first\n"""', encoding="utf-8")
    assert unlisted_modules(package) == ["sub", "two"]
    package.write_text('"""A package.\n\none      the first\nthree    gone\nsub   below\n"""', encoding="utf-8")
    assert absent_modules(package) == ["three"]
