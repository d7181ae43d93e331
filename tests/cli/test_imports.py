"""What a command imports. Times depend on the machine; packages that a command does not need are what costs time."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.program import environment, run

_SERVER = ("fastapi", "starlette", "uvicorn", "redis", "structlog", "gateway.server")
_SETTINGS = ("pydantic", "pydantic_settings", "gateway.config.settings")
_CLIENT = ("http.client", "gateway.cli.client")
_NEVER = ("httpx", "requests", "pygments", "arro3")


def imported_by(
    *arguments: str,
    program: str = "from gateway.cli import main; main()",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> set[str]:
    """The modules that a process has imported when it ends well. The last line of its output names them."""
    telling = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\n', *sys.modules))\n"
        f"sys.argv = ['gateway', *{arguments!r}]\n"
        f"{program}"
    )
    done = subprocess.run(
        [sys.executable, "-c", telling],
        env=environment(env), cwd=cwd, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--version"], (*_SERVER, *_SETTINGS, *_CLIENT, "rich")),
        (["check", "--help"], (*_SERVER, *_SETTINGS, *_CLIENT)),
        (["teams", "--help"], (*_SERVER, *_SETTINGS, "gateway.cli.keys", "gateway.cli.ledger")),
        (["keys", "--help"], (*_SERVER, *_SETTINGS, "gateway.cli.teams", "gateway.cli.ledger")),
        (["prices", "--help"], (*_SERVER, *_SETTINGS, *_CLIENT, "genai_prices", "gateway.billing")),
        (["usage", "--help"], (*_SERVER, *_SETTINGS, "gateway.cli.keys", "gateway.cli.ledger")),
        (["ledger", "--help"], (*_SERVER, *_SETTINGS, "gateway.cli.teams", "gateway.cli.keys")),
        (["--help"], _SERVER),
    ],
    ids=" ".join,
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], unneeded: tuple[str, ...]) -> None:
    assert imported_by(*arguments).isdisjoint((*unneeded, *_NEVER))


def test_commands_import_few_modules_beside_a_bare_start(gateway: RunningGateway, tmp_path: Path) -> None:
    """By time they may be 2, 4 and 8 such starts. Most of a command's time is that of its imports."""
    assert run("init", "--yes", "--provider", "openai", cwd=tmp_path).code == 0
    signed_in = {"GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY}
    assert run("teams", "create", "one row of the table", cwd=tmp_path, env=signed_in).code == 0
    bare = imported_by(program="import asyncio, ssl, json")
    version = imported_by("--version")
    teams = imported_by("teams", "list", env=signed_in)
    check = imported_by("check", env={"OPENAI_API_KEY": "any"}, cwd=tmp_path)
    assert len(version) < 1.2 * len(bare)
    assert len(teams) < 2 * len(bare)
    assert len(check) < 3.5 * len(bare)
    assert (teams | check).isdisjoint((*_SERVER, *_NEVER))


@pytest.mark.parametrize("arguments", [["nothing"], ["--profile", "x", "teams", "nothing"]], ids=" ".join)
def test_a_command_that_does_not_exist_is_wrong_usage(arguments: list[str]) -> None:
    program = f"import sys; sys.argv = ['gateway', *{arguments!r}]\nfrom gateway.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "No such command 'nothing'" in done.stderr
