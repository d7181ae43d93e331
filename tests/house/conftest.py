"""Every Python file of the project is read and parsed once, for all rules."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.house import rules

ROOT: Final = Path(__file__).parents[2]
EVERYWHERE: Final = ("gateway", "tests", "benchmarks")
Found = Mapping[Callable[..., object], Mapping[str, list[str]]]

# rule -> the folders whose files keep it
RULES: Final[Mapping[Callable[[str], list[str]], tuple[str, ...]]] = {
    rules.too_long: ("gateway", "tests"),
    rules.no_module_docstring: ("gateway", "tests"),
    rules.bare_suppressions: ("gateway", "tests"),
    rules.long_functions: ("gateway", "tests"),
    rules.module_level_mutable_state: ("gateway",),
    rules.private_attributes_of_others: ("gateway",),
    rules.unexplained_sleeps: ("tests",),
    rules.imported_tests: ("tests",),
    rules.named_modules: EVERYWHERE,
}


@pytest.fixture(scope="session")
def found() -> Found:
    """What each rule finds in each file, without the files in which it finds nothing."""
    results: dict[Callable[..., object], dict[str, list[str]]] = {rule: {} for rule in RULES}
    for top in EVERYWHERE:
        for path in sorted((ROOT / top).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            for rule, folders in RULES.items():
                if top in folders and (findings := rule(source)):
                    results[rule][path.relative_to(ROOT).as_posix()] = findings
    return results
