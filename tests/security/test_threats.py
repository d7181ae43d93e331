"""SECURITY.md names, for each threat, tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = text[text.index("| who | might try to | what prevents it | test |") :].partition("\n\n")[0]
    return table.splitlines()[2:]


def test_each_threat_names_a_test() -> None:
    assert len(rows()) > 10
    assert [row for row in rows() if not NAMED.search(row)] == []


def test_each_named_test_exists() -> None:
    missing = []
    for file, name in NAMED.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8")):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if name not in names:
            missing.append(f"{file}::{name}")
    assert missing == []
