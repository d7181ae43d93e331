"""No secret is an argument of a process: every user of a machine can read those, and so can its monitoring."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.processes import READY
from tests.support.program import processes_in, run, started
from tests.support.servers import valkey_server

SECRETS = {
    "GATEWAY_ADMIN_KEY": "a-secret-admin-key-of-32-characters-at-least",
    "PROVIDER_KEY": "a-secret-provider-key",
    "METRICS_TOKEN": "a-secret-metrics-token",
    "STORE_PASSWORD": "a-secret-store-password",
}
CONFIG = """
[server]
port = {port}
workers = {workers}
metrics_token = "env:METRICS_TOKEN"
[store]
url = "{url}"
accept_data_loss = true
data_dir = "data"
{password}
[admin]
key = "env:GATEWAY_ADMIN_KEY"
[log]
format = "json"
[upstreams.one]
base_url = "http://127.0.0.1:9/v1"
api_keys = ["env:PROVIDER_KEY"]
[[routes]]
model = "*"
upstreams = ["one"]
[prices."*"]
input = "1"
output = "1"
"""


@contextlib.contextmanager
def store(kind: str) -> Iterator[tuple[str, str]]:
    """A store's URL and what else its section says."""
    if kind == "embedded":
        yield "embedded", ""
        return
    with valkey_server() as server:
        server.run("CONFIG", "SET", "requirepass", SECRETS["STORE_PASSWORD"])
        yield server.url, 'password = "env:STORE_PASSWORD"'


def descendants(pid: int) -> set[int]:
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            found |= descendants(int(child))
    return found


@pytest.mark.parametrize(("kind", "workers"), [("embedded", 2), ("with a password", 1)])
def test_no_secret_is_an_argument_of_any_process(tmp_path: Path, kind: str, workers: int) -> None:
    port = free_port()
    with store(kind) as (url, password):
        text = CONFIG.format(port=port, workers=workers, url=url, password=password)
        (tmp_path / "gateway.toml").write_text(text, encoding="utf-8")
        with started("serve", "--config", "gateway.toml", cwd=tmp_path, env=SECRETS, is_fork=False) as program:
            program.wait_for(READY, count=workers)
            env = SECRETS | {"GATEWAY_URL": f"http://127.0.0.1:{port}"}
            assert run("teams", "create", "search", "--credits", "1", cwd=tmp_path, env=env).code == 0
            made = run("keys", "create", "search", "--name", "laptop", cwd=tmp_path, env=env)
            key = next(word for word in made.out.split() if word.startswith("sk-gw-"))
            assert httpx.get(f"{env['GATEWAY_URL']}/v1/key", headers={"authorization": f"Bearer {key}"}).is_success
            pids = descendants(program.process.pid) | set(processes_in(tmp_path))
            arguments = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    programs = b"\n".join(arguments.values())
    assert (b"valkey" in programs) == (kind == "embedded"), "the store is looked at too"
    assert programs.count(b"--multiprocessing-fork") == (workers if workers > 1 else 0), "the workers too"
    for secret in (*SECRETS.values(), key, key.rpartition("-")[2]):
        assert os.fsencode(secret) not in programs
