"""`gateway demo` as a newcomer uses it: every printed command is run exactly as it stands."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.cli.demo import Greeting
from gateway.cli.greeting import Demo
from tests.support.gateway import ADMIN_KEY, running_gateway, simulator
from tests.support.program import Program, environment, processes_in, run, started
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

LAST_LINE = "Ctrl-C stops everything"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(home: Path) -> Iterator[str]:
    """Yields what a running demo printed."""
    with started("demo", "--port", "0", cwd=home, is_fork=False) as program:
        yield program.wait_for(LAST_LINE)
        assert program.stop() == 0


def block(printed: str, heading: str) -> str:
    """The lines under a heading."""
    return printed.partition(f"# {heading}")[2].partition("\n")[2].partition("\n\n")[0]


def pasted(command: str, cwd: Path) -> str:
    done = subprocess.run(
        ["sh", "-ec", command], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fact(printed: str, name: str) -> str:
    """Returns a value from the list at the top."""
    return next(line.split()[-1] for line in printed.splitlines() if line.startswith(name))


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@needs_curl
def test_the_printed_request_works_as_pasted(demo: str, home: Path) -> None:
    answer = json.loads(pasted(block(demo, "A request"), home))
    assert answer["status"] == "completed"
    assert answer["output"][0]["content"][0]["text"]


@needs_curl
def test_the_printed_streaming_request_works_as_pasted(demo: str, home: Path) -> None:
    answer = pasted(block(demo, "The same, streamed"), home)
    assert answer.startswith("event: response.created\n")
    assert answer.rstrip().endswith("data: [DONE]")


def test_the_printed_sdk_lines_work_as_pasted(demo: str, home: Path) -> None:
    lines = block(demo, "The OpenAI SDK for Python")
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=home, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_printed_commands_make_another_team_and_key(demo: str, home: Path) -> None:
    out = pasted(block(demo, "Another team"), home)
    assert "sk-gw-" in out
    assert "research" in out.splitlines()[-1] or "research" in out.splitlines()[-2]
    assert "rpm 60" in out


def test_it_says_that_a_simulator_answers_and_where_the_data_lies(demo: str, home: Path) -> None:
    assert "built-in simulator" in demo
    assert str(home / "data") in demo


def test_its_secrets_are_readable_by_their_owner_alone(demo: str, home: Path) -> None:
    assert fact(demo, "API key") == (home / "data" / "demo-key").read_text(encoding="ascii").strip()
    for name in ("admin-key", "demo-key"):
        assert stat.S_IMODE((home / "data" / name).stat().st_mode) == 0o600


def test_its_configuration_lies_there_to_be_copied(demo: str, home: Path) -> None:
    done = run("check", "--config", "data/gateway.toml", cwd=home)
    assert (done.code, done.err) == (0, "")
    assert "OK" in done.out


def test_a_second_demo_on_the_same_port_says_that_it_is_taken(demo: str, tmp_path: Path) -> None:
    port = httpx.URL(fact(demo, "Base URL")).port
    done = run("demo", "--port", str(port), cwd=tmp_path)
    assert done.code == 1
    assert done.err == f"gateway: port {port} of 127.0.0.1 is in use; end what uses it, or take another with --port\n"
    assert not processes_in(tmp_path)


def test_a_second_demo_on_the_same_data_says_who_has_it(demo: str, home: Path) -> None:
    before = (home / "data" / "gateway.toml").read_text(encoding="utf-8")
    done = run("demo", "--port", "0", "--data-dir", str(home / "data"), cwd=home)
    assert done.code == 1
    assert done.err.startswith(f"gateway: {home / 'data'} is in use by process ")
    assert done.err.count("\n") == 1
    assert (home / "data" / "gateway.toml").read_text(encoding="utf-8") == before


def test_a_data_directory_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("demo", "--port", "0", "--data-dir", "file/data", cwd=tmp_path)
    assert (done.code, done.err) == (1, "gateway: cannot use the data directory file/data: Not a directory\n")


def test_a_machine_without_a_valkey_binary_is_told_so_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = (
        "import platform, sys; platform.machine = lambda: 'vax'\n"
        f"sys.argv = ['gateway', 'demo', '--port', '{port}']\n"
        "from gateway.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gateway: no Valkey server for this machine: ")
    assert done.stderr.count("\n") == 1


def state_of(program: Program, home: Path) -> tuple[str, str]:
    """Returns (the demo's key, its teams as they are shown)."""
    printed = program.wait_for(LAST_LINE)
    url = fact(printed, "Base URL").removesuffix("/v1")
    teams = run("teams", "list", "--json", cwd=home, env={"GATEWAY_URL": url})
    assert teams.code == 0, teams.err
    shown = [{name: team[name] for name in ("id", "name", "balance", "created_at")} for team in json.loads(teams.out)]
    return fact(printed, "API key"), json.dumps(shown)


def spend(program: Program) -> None:
    printed = program.out
    headers = {"authorization": f"Bearer {fact(printed, 'API key')}"}
    body = {"model": "o4-mini", "input": "Hello, world!"}
    answer = httpx.post(f"{fact(printed, 'Base URL')}/responses", headers=headers, json=body, trust_env=False)
    assert answer.status_code == 200


def test_a_store_that_pauses_before_the_team_is_there_delays_the_demo_and_does_not_end_it(
    own_store: Server, upstream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        # A demo that cannot begin ends its process by SIGTERM.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: None))
        gateway = stack.enter_context(running_gateway(own_store.url, upstream, tmp_path, store={"timeout_s": 0.3}))
        own_store.pause()
        greeting = stack.enter_context(Greeting(Demo(gateway.url, tmp_path, simulated=True), ADMIN_KEY))
        wait_until_sync(lambda: not gateway.services.store.available, what="the store is missed")
        own_store.resume()
        greeting.join(60)
    assert greeting.fault is None
    assert LAST_LINE in capsys.readouterr().out


def test_the_next_start_finds_the_same_team_key_and_balance_whatever_ended_the_last(tmp_path: Path) -> None:
    with started("demo", "--port", "0", cwd=tmp_path) as first:
        first.wait_for(LAST_LINE)
        spend(first)
        seen = state_of(first, tmp_path)
        assert '"spent_usd": "0"' not in seen[1]
        assert first.stop(signal.SIGINT) == 0
        assert "Traceback" not in first.err
    assert not processes_in(tmp_path / "data")
    with started("demo", "--port", "0", cwd=tmp_path) as second:
        assert state_of(second, tmp_path) == seen
        second.kill()
    with started("demo", "--port", "0", cwd=tmp_path) as third:
        assert state_of(third, tmp_path) == seen
        assert third.stop(signal.SIGTERM) == 0
    wait_until_sync(lambda: not processes_in(tmp_path / "data"), what="no store is left behind")


def test_a_key_that_opens_nothing_any_more_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo-key").write_text("sk-gw-of-another-store\n", encoding="ascii")
    with started("demo", "--port", "0", cwd=tmp_path) as program:
        program.wait_for(LAST_LINE)
        spend(program)
    assert fact(program.out, "API key") == (tmp_path / "data" / "demo-key").read_text(encoding="ascii").strip()


def test_with_a_provider_s_key_requests_go_to_the_provider(tmp_path: Path) -> None:
    with simulator() as provider:
        env = {"SIRAYA_API_KEY": "key", "GATEWAY_UPSTREAMS__SIRAYA__BASE_URL": provider}
        with started("demo", "--port", "0", cwd=tmp_path, env=env) as program:
            assert "Siraya" in program.wait_for(LAST_LINE)
            spend(program)
            assert program.stop() == 0


def test_it_names_the_dashboard_and_where_its_key_lies(demo: str, home: Path) -> None:
    url = fact(demo, "Base URL").removesuffix("/v1")
    assert f"Dashboard  {url}/dashboard" in demo
    assert str(home / "data" / "admin-key") in demo
    assert httpx.get(f"{url}/dashboard", follow_redirects=True, trust_env=False).is_success


def test_each_client_s_lines_name_the_base_url_and_the_key(demo: str) -> None:
    url, key = fact(demo, "Base URL"), fact(demo, "API key")
    for client in ("The OpenAI SDK for JavaScript", "Codex CLI", "opencode"):
        lines = block(demo, client)
        assert url in lines, client
        assert key in lines, client


def test_the_codex_lines_are_a_provider_in_toml_and_those_for_opencode_are_json(demo: str, home: Path) -> None:
    """A program in their place shows what the shell makes of the lines."""
    for name in ("codex", "opencode"):
        program = home / name
        program.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "told = [os.environ.get(name) for name in ('GATEWAY_KEY', 'OPENCODE_CONFIG_CONTENT')]\n"
            "print(json.dumps([sys.argv[1:], *told]))\n"
        )
        program.chmod(0o755)
    path = f"PATH={home}:$PATH; "
    words, key, _ = json.loads(pasted(path + block(demo, "Codex CLI"), home))
    set_to = dict(word.split("=", 1) for word in words if "=" in word)
    provider = tomllib.loads(f"p = {set_to['model_providers.gateway']}")["p"]
    assert set_to["model_provider"] == "gateway"
    assert (provider["base_url"], provider["wire_api"]) == (fact(demo, "Base URL"), "responses")
    assert (provider["env_key"], key) == ("GATEWAY_KEY", fact(demo, "API key"))
    _, _, told = json.loads(pasted(path + block(demo, "opencode"), home))
    options = json.loads(told)["provider"]["gateway"]["options"]
    assert options == {"baseURL": fact(demo, "Base URL"), "apiKey": fact(demo, "API key")}


def test_a_copy_of_its_configuration_serves_from_anywhere_when_the_demo_has_ended(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with started("demo", "--port", "0", cwd=tmp_path) as program:
        key = fact(program.wait_for(LAST_LINE), "API key")
        assert program.stop() == 0
    own = tmp_path / "elsewhere" / "own.toml"
    shutil.copy(tmp_path / "data" / "gateway.toml", own)
    with started("serve", "--config", "own.toml", "--port", "0", "--workers", "2", cwd=own.parent) as program:
        url = program.wait_for("Gateway: ").split()[1]

        def answers() -> bool:
            body = {"model": "o4-mini", "input": "Hi"}
            headers = {"authorization": f"Bearer {key}"}
            with contextlib.suppress(httpx.TransportError):
                return httpx.post(f"{url}/responses", headers=headers, json=body, trust_env=False).status_code == 200
            return False

        wait_until_sync(answers, what="the copy serves")
        assert program.stop() == 0
    wait_until_sync(lambda: not processes_in(tmp_path / "data"), what="no store is left behind")
