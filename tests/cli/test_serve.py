"""`gateway serve`, `check`, `simulate`: real processes, real signals."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.program import Program, processes_in, run, started
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

ENV = {"GATEWAY_ADMIN_KEY": "admin-key-of-32-characters-at-least", "PROVIDER_KEY": "key"}


@pytest.fixture
def config(tmp_path: Path, upstream: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(
        f"""
[server]
port = 0
[store]
data_dir = "{tmp_path / "data"}"
[admin]
key = "env:GATEWAY_ADMIN_KEY"
[upstreams.simulator]
base_url = "{upstream}"
api_keys = ["env:PROVIDER_KEY"]
[[routes]]
model = "*"
upstreams = ["simulator"]
[prices."*"]
input = "1"
output = "1"
""",
        encoding="utf-8",
    )
    return path


def url_of(program: Program) -> str:
    """Waits until it serves, and returns its URL."""
    printed = program.wait_for("Gateway: http://")
    url = re.findall(r"Gateway: (http://\S+)/v1", printed)[-1]

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz", trust_env=False).is_success
        return False

    wait_until_sync(ready, what="the gateway is ready")
    return str(url)


def new_key(url: str, cwd: Path, *limits: str) -> str:
    env = ENV | {"GATEWAY_URL": url}
    assert run("teams", "create", "ops", "--credits", "1", *limits, cwd=cwd, env=env).code == 0
    made = run("keys", "create", "ops", "--name", "test", "--json", cwd=cwd, env=env)
    return str(json.loads(made.out)["key"])


def test_it_says_where_it_listens_and_ends_cleanly_when_asked(config: Path, tmp_path: Path) -> None:
    with started("serve", cwd=tmp_path, env=ENV | {"GATEWAY_CONFIG": str(config)}, is_fork=False) as program:
        url = url_of(program)
        assert program.out == f"Gateway: {url}/v1\n"
        assert program.stop(signal.SIGTERM) == 0
        assert "Traceback" not in program.err
    assert not processes_in(tmp_path / "data")


def test_two_workers_share_one_embedded_store(config: Path, tmp_path: Path) -> None:
    with started("serve", "--config", str(config), "--workers", "2", cwd=tmp_path, env=ENV) as program:
        program.wait_for('"event": "ready"', count=2)
        url = url_of(program)
        key = new_key(url, tmp_path, "--rpm", "5")

        def ask(_: int) -> int:
            headers = {"authorization": f"Bearer {key}", "connection": "close"}
            body = {"model": "o4-mini", "input": "Hi"}
            return httpx.post(
                f"{url}/v1/responses", headers=headers, json=body, trust_env=False, timeout=30
            ).status_code

        with ThreadPoolExecutor(12) as pool:
            statuses = sorted(pool.map(ask, range(12)))
        assert statuses == [200] * 5 + [429] * 7
        assert program.stop(signal.SIGINT) == 0
        assert "Traceback" not in program.err
    assert not processes_in(tmp_path / "data")


def test_after_kill_9_of_a_gateway_with_workers_its_port_and_data_are_free_again(config: Path, tmp_path: Path) -> None:
    with started("serve", "--config", str(config), "--workers", "2", cwd=tmp_path, env=ENV) as program:
        url = url_of(program)
        new_key(url, tmp_path)
        program.kill()
    port = httpx.URL(url).port
    assert port is not None

    def port_is_free() -> bool:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return True
        return False

    wait_until_sync(port_is_free, what="the workers have ended")
    with started("serve", "--config", str(config), "--port", str(port), cwd=tmp_path, env=ENV) as again:
        assert url_of(again) == url
        teams = run("teams", "list", cwd=tmp_path, env=ENV | {"GATEWAY_URL": url})
        assert "ops" in teams.out
        assert again.stop() == 0


def test_a_port_in_use_is_one_line_and_no_store_is_started(config: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--config", str(config), "--port", port, cwd=tmp_path, env=ENV)
    assert done.code == 1
    assert done.err == f"gateway: port {port} of 127.0.0.1 is in use; end what uses it, or take another with --port\n"
    assert not (tmp_path / "data").exists()


def test_a_host_that_is_not_ours_is_one_line(config: Path, tmp_path: Path) -> None:
    done = run("serve", "--config", str(config), "--host", "192.0.2.1", cwd=tmp_path, env=ENV)
    assert done.code == 1
    assert done.err == "gateway: cannot listen on 192.0.2.1 port 0: Cannot assign requested address\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_refuses_the_password_is_one_line(config: Path, tmp_path: Path, workers: str) -> None:
    with valkey_server(tcp=True) as store:
        store.run("CONFIG", "SET", "requirepass", "another")
        env = ENV | {
            "GATEWAY_STORE__URL": store.url,
            "STORE_PASSWORD": "no",
            "GATEWAY_STORE__PASSWORD": "env:STORE_PASSWORD",
        }
        done = run("serve", "--config", str(config), "--workers", workers, cwd=tmp_path, env=env)
    assert done.code == 1
    assert done.err.startswith("gateway: the store refuses the gateway: WRONGPASS")
    assert done.err.count("\n") == 1


def test_a_data_directory_that_cannot_be_is_one_line(config: Path, tmp_path: Path) -> None:
    with valkey_server(tcp=True) as store:
        env = ENV | {"GATEWAY_STORE__URL": store.url, "GATEWAY_STORE__DATA_DIR": str(config)}
        done = run("serve", "--config", str(config), cwd=tmp_path, env=env)
    assert done.code == 1
    assert done.err == f"gateway: cannot use the data directory {config}: Not a directory\n"


def test_serve_and_check_say_every_mistake_in_a_line_of_its_own(config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8").replace('["simulator"]', '["nobody"]').replace("port = 0", "prot = 0")
    config.write_text(text, encoding="utf-8")
    for command in ("serve", "check"):
        done = run(command, "--config", str(config), cwd=tmp_path, env=ENV | {"GATEWAY_STORE__URL": "redis://a,b"})
        assert (done.code, done.out) == (1, "")
        assert done.err.splitlines() == [
            f"gateway: {config}:3:1: server.prot: there is no such setting; did you mean 'port'?",
            "gateway: environment GATEWAY_STORE__URL: store.url: several hosts need redis+sentinel:// or redis+cluster://",
            f"gateway: {config}:13:1: routes[0].upstreams: there is no upstream 'nobody'",
        ]


def test_check_finds_what_only_shows_when_the_parts_are_built(config: Path, tmp_path: Path) -> None:
    env = ENV | {
        "GATEWAY_UPSTREAMS__SIMULATOR__BASE_URL": "https://provider.example/v1",
        "GATEWAY_UPSTREAMS__SIMULATOR__CA_FILE": "/not/there.pem",
    }
    done = run("check", "--config", str(config), cwd=tmp_path, env=env)
    assert done.code == 1
    (upstream,) = done.err.splitlines()
    assert upstream.startswith(f"gateway: {config}:8:1: upstreams.simulator: ")


def test_check_sums_up_what_would_be_served(config: Path, tmp_path: Path) -> None:
    env = ENV | {"GATEWAY_STORE__URL": "redis://:secret@store:6379"}
    done = run("check", "--config", str(config), cwd=tmp_path, env=env)
    assert (done.code, done.err) == (0, "")
    assert f"{config}: OK" in done.out
    assert "* -> simulator" in done.out
    assert "store:6379 (single)" in done.out
    assert "store.url holds a password" in done.out
    assert "secret" not in done.out


def test_check_names_aliases_and_routes_without_a_price(config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8").replace('[prices."*"]', '[prices."a/b"]').replace('"*"', '"a/*"')
    config.write_text(
        text + '[[routes]]\nmodel = "c"\nupstreams = ["simulator"]\n[aliases]\nfast = "a/b"\n', encoding="utf-8"
    )
    done = run("check", "--config", str(config), cwd=tmp_path, env=ENV)
    assert (done.code, done.err) == (0, "")
    assert "alias      fast -> a/b" in done.out
    assert "the route 'a/*' has no price: all but a/b are refused" in done.out
    assert "the route 'c' has no price: it is refused" in done.out


def test_the_simulator_runs_by_itself(tmp_path: Path) -> None:
    with started("simulate", "--port", "0", cwd=tmp_path, is_fork=False) as program:
        url = program.wait_for("/v1").split()[-1]
        body = {"model": "o4-mini", "input": "Hi"}
        headers = {"authorization": "Bearer any"}
        assert httpx.post(f"{url}/responses", json=body, headers=headers, trust_env=False).is_success
        assert program.stop(signal.SIGTERM) == 0


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    assert run("serve", "--workers", "0", cwd=tmp_path).code == 2
    assert run("nothing", cwd=tmp_path).code == 2
    assert run("--version", cwd=tmp_path).out.count(".") == 2
