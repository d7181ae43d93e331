"""What the gateway imports is what pyproject.toml says that it needs: the image holds nothing else."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).parents[2]


def names_of(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name}


def nodes_here(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module but for those that another version of Python alone would run."""
    yield tree
    test = ast.unparse(tree.test) if isinstance(tree, ast.If) else ""
    for below in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.If) and test.startswith("sys.version_info >= "):
            is_newer = sys.version_info >= ast.literal_eval(test.partition(">= ")[2])
            if below in (tree.orelse if is_newer else tree.body):
                continue
        yield from nodes_here(below)


def imported_packages() -> dict[str, str]:
    """The top-level packages that the gateway's modules import, each with a module that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in nodes_here(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.partition(".")[0], str(path.relative_to(ROOT)))
    return found


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = names_of(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        declared |= names_of(extra)
    # Halves of one thing: the documentation of each first package imports the second.
    for whole, half in (("fastapi", "starlette"), ("pydantic-settings", "pydantic"), ("pydantic", "pydantic-core")):
        declared |= names_of(requires(whole) or []) & {half}
    distributions = packages_distributions()
    missing = {
        package: place
        for package, place in imported_packages().items()
        if package not in sys.stdlib_module_names
        and package != "gateway"
        and not names_of(distributions.get(package, [package])) & declared
    }
    assert missing == {}
