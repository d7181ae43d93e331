"""Each client that `make clients` tries has a program, and a line in the documentation."""

from pathlib import Path

import pytest

from tests.support.clients import CLIENTS, Client

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "clients" / "programs"


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_a_client_has_a_program_and_is_documented(client: Client) -> None:
    assert (PROGRAMS / f"{client.program}.py").is_file()
    lines = [line for line in (ROOT / "docs" / "clients.md").read_text().splitlines() if line.endswith("| yes |")]
    for name in client.documented:
        assert [line for line in lines if line.startswith(f"| {name}")], f"{name} has no line that says it was tried"


def test_every_program_is_a_clients() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.py")} == {client.program for client in CLIENTS}
