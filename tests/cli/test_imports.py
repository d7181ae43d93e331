"""What a command imports. Times depend on the machine; packages that a command does not need are what costs time."""

import subprocess
import sys

import pytest

from tests.support.program import environment

_SERVER = ("fastapi", "starlette", "uvicorn", "redis", "pydantic_settings", "structlog", "gateway.server")
_CLIENT = ("httpx", "gateway.cli.client")


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--version"], (*_SERVER, *_CLIENT, "rich.table")),
        (["check", "--help"], (*_CLIENT, *_SERVER)),
        (["teams", "--help"], (*_SERVER, "gateway.cli.keys", "gateway.cli.ledger")),
        (["keys", "--help"], (*_SERVER, "gateway.cli.teams", "gateway.cli.ledger")),
        (["prices", "--help"], (*_SERVER, *_CLIENT, "genai_prices", "gateway.billing")),
        (["--help"], _SERVER),
    ],
    ids=" ".join,
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], unneeded: tuple[str, ...]) -> None:
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('imported:', sorted(set({unneeded!r}) & set(sys.modules))))\n"
        f"sys.argv = ['gateway', *{arguments!r}]\n"
        "from gateway.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("imported: []\n"), done.stdout


@pytest.mark.parametrize("arguments", [["nothing"], ["--profile", "x", "teams", "nothing"]], ids=" ".join)
def test_a_command_that_does_not_exist_is_wrong_usage(arguments: list[str]) -> None:
    program = f"import sys; sys.argv = ['gateway', *{arguments!r}]\nfrom gateway.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 2
    assert "No such command 'nothing'" in done.stderr
