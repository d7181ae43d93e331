"""`make clients`: real programs of other people, installed from the package index, against a running gateway.

Each program knows a base URL and a key, from the variables that it reads by default, and KEPT_STATE_BASE_URLS, two
gateways that keep responses. Environments are made once, below
CLIENTS_DIR (`.clients` in the tree), and kept for the next run; remove one to have newer versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import CLIENTS, Client
from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.servers import Server, valkey_server

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_S, RUN_S = 900, 300
pytestmark = pytest.mark.timeout(INSTALL_S + RUN_S)  # one of them is several gigabytes


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        simulator() as upstream,
        running_gateway(server.url, upstream, tmp_path_factory.mktemp("clients")) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def keeping(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningGateway]]:
    """Two gateways that keep the state of a provider that only answers POST. They know the same keys."""
    new, route = tmp_path_factory.mktemp, {"state": "gateway"}
    with (
        simulator(post_only=True) as upstream,
        running_gateway(server.url, upstream, new("one"), route=route) as one,
        running_gateway(server.url, upstream, new("two"), route=route) as two,
    ):
        yield [one, two]


@pytest.fixture(scope="session", autouse=True)
def _one_authority() -> None:
    """What is installed comes from the package index, whose authorities are this machine's."""


def installed(client: Client) -> Path:
    """The Python of the client's own environment, which is made where it is not there."""
    home = Path(os.environ.get("CLIENTS_DIR", ROOT / ".clients")) / client.program
    python, done = home / "bin" / "python", home / ".installed"
    wanted = "\n".join(client.requirements)
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv")
    make = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    subprocess.run([*make, str(home)], check=True, timeout=INSTALL_S)
    install = (
        [uv, "pip", "install", "--quiet", "--python", str(python)]
        if uv
        else [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    )
    subprocess.run([*install, *client.requirements], check=True, timeout=INSTALL_S)
    done.write_text(wanted, encoding="utf-8")
    return python


def environment(gateway: RunningGateway, keeping: list[RunningGateway], home: Path) -> dict[str, str]:
    """The variables that such programs read, and nothing of this machine's but its paths."""
    key = gateway.new_key()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "OPENAI_API_KEY": key.text,
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_API_KEY": key.text,
        "DO_NOT_TRACK": "1",
        "KEPT_STATE_BASE_URLS": " ".join(f"{one.url}/v1" for one in keeping),
    }


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.program)
def test_a_client_runs_with_its_base_url_and_its_key(
    client: Client, gateway: RunningGateway, keeping: list[RunningGateway], tmp_path: Path
) -> None:
    python = installed(client)
    done = subprocess.run(
        [str(python), str(PROGRAMS / f"{client.program}.py")],
        cwd=tmp_path,
        env=environment(gateway, keeping, tmp_path),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
