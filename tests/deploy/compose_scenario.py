"""The life of the compose stack, in order, on a real Docker Engine: `make compose-test`.

It is not collected with the other tests (no test_ in its name), because it takes minutes. Each test continues where the
last one ended. `books_agree` after each checks that nothing was lost: every answer that a client received completely is
in the journal once, with its price, and the gateway's own verification of the ledger agrees.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest

from gateway.billing.money import format_usd
from tests.deploy.stack import (
    ROOT,
    UPSTREAM_KEY,
    Answered,
    Load,
    Stack,
    ask_once,
    compose_stack,
    engine_answers,
    sdk,
    stream_once,
    trust,
)
from tests.deploy.test_observability import expressions, rules
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.timeout(400)
README: Final = ROOT / "deploy" / "README.md"
GATEWAYS: Final = ("gateway", "gateway-2", "gateway-3")
TEAM: Final = "load"


def readme_lines() -> list[str]:
    """Returns the lines that a newcomer types: the first two shell blocks of the section on compose."""
    section = README.read_text(encoding="utf-8").split("## Compose\n", 1)[1]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[:2]
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not engine_answers():
        pytest.skip("no Docker Engine with a compose answers here")
    with compose_stack(tmp_path_factory.mktemp("compose")) as stack:
        yield stack
    assert stack.left_behind() == {}


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """Returns the key that the README's lines create."""
    shown = ""
    for line in readme_lines():
        if "exec" in line:  # "says healthy after some seconds"
            stack.wait_healthy("gateway")
        shown += stack.type(line.replace("http://127.0.0.1:8080", stack.url))
    found = re.search(r"sk-gw-[\w-]+", shown)
    assert found is not None, shown
    return found[0]


@pytest.fixture(scope="module", autouse=True)
def another_build(stack: Stack, key: str) -> Iterator[Future[Any]]:
    """The layers of a second build without a cache, which goes on beside the other tests: most of them wait."""
    assert key
    image = f"{stack.project}:again"

    def build() -> Any:
        stack.compose("build", "--no-cache", "gateway", GATEWAY_IMAGE=image)
        return stack.layers(image)

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(build)
    subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)


@pytest.fixture(scope="module")
def load_key(stack: Stack, key: str) -> str:
    """A key of a team without limits but its credits."""
    assert key
    stack.gateway_command("teams", "create", TEAM, "--credits", "1000")
    return str(stack.gateway_command("keys", "create", TEAM, "--name", "load")["key"])


def books_agree(stack: Stack, answers: Sequence[Answered], *, gateway_died: bool = False) -> None:
    """Checks that each answer is settled once at its price (or expired with its gateway); verifies the ledger."""

    def resolved() -> bool:
        time.sleep(0.5)  # each look reads the whole journal
        entries = stack.entries(TEAM)
        return all(answer.request_id in entries for answer in answers) and _held(stack) == "0"

    wait_until_sync(resolved, timeout_s=90, what="every answer is resolved, and nothing is held")
    entries = stack.entries(TEAM)
    for answer in answers:
        (entry,) = entries[answer.request_id]
        expected = {("settle", format_usd(-answer.cost_nano_usd))}
        if gateway_died:
            expected.add(("expire", "0"))
        assert (entry["type"], entry["amount_usd"]) in expected
    verification = stack.admin("/ledger/verify")
    assert verification["ok"], verification


def _held(stack: Stack) -> str:
    return str(stack.admin(f"/teams/{TEAM}")["balance"]["held_usd"])


def test_the_readme_lines_make_a_team_and_a_key_that_works(stack: Stack, key: str) -> None:
    with sdk(stack.url, key) as client:
        assert client.responses.create(model="openai/gpt-5.2", input="hello").status == "completed"


def test_a_long_stream_comes_as_it_is_made(stack: Stack, load_key: str) -> None:
    arrivals = []
    with (
        sdk(stack.url, load_key) as client,
        client.responses.create(model="sim/slow-20+tokens-150", input="hello", stream=True) as events,
    ):
        arrivals = [(time.monotonic(), event.type) for event in events]
    assert arrivals[-1][1] == "response.completed"
    assert len(arrivals) > 150
    # 150 tokens, 20 ms apart: if anything held the stream back, they would arrive at once.
    assert arrivals[-1][0] - arrivals[0][0] > 1.5


@pytest.mark.parametrize("service", ["gateway", "valkey", "simulator"])
def test_containers_run_without_root_capabilities_or_a_writable_root(stack: Stack, load_key: str, service: str) -> None:
    assert load_key
    container = stack.container(service)
    status = dict(line.split(":", 1) for line in stack.docker("exec", container, "cat", "/proc/1/status").splitlines())
    assert "0" not in status["Uid"].split()
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    for place in ("/file", "/usr/file", "/etc/file", "/opt/file"):
        written = stack.attempt(container, "touch", place)
        assert written.returncode != 0, place
    assert "Read-only" in stack.attempt(container, "touch", "/file").stderr


def test_secrets_are_in_no_argument_no_environment_and_no_log(stack: Stack, load_key: str) -> None:
    secrets = [path.read_text().strip() for path in stack.secrets.iterdir()]
    assert UPSTREAM_KEY in secrets
    texts = [stack.logs()]
    for service in ("gateway", "valkey"):
        container = stack.container(service)
        texts += [
            stack.docker("inspect", container),
            stack.docker("exec", container, "cat", "/proc/1/cmdline"),
            stack.docker("exec", container, "cat", "/proc/1/environ"),
        ]
    texts.append(stack.docker("history", "--no-trunc", stack.environ["GATEWAY_IMAGE"]))
    for secret in [*secrets, load_key]:
        assert not any(secret in text for text in texts)


def test_the_store_is_reached_by_the_gateways_alone(stack: Stack, load_key: str) -> None:
    assert load_key
    ports = json.loads(
        stack.docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", stack.container("valkey"))
    )
    assert not any(ports.values())
    # By name from the network of the provider's side, and without its password from the gateway's network.
    connect = "import socket; socket.create_connection(('valkey', 6379), 3)"
    assert stack.attempt(stack.container("simulator"), "/opt/gateway/bin/python", "-c", connect).returncode != 0
    ask = "import redis; redis.Redis('valkey', protocol=2).ping()"
    refused = stack.attempt(stack.container("gateway"), "/opt/gateway/bin/python", "-c", ask)
    assert "Authentication required" in refused.stderr


@pytest.mark.parametrize("service", ["gateway", "valkey", "simulator"])
def test_a_container_killed_under_load_loses_nothing(stack: Stack, load_key: str, service: str) -> None:
    with Load(stack.url, load_key) as load:
        stack.docker("kill", "--signal", "KILL", stack.container(service))
        wait_until_sync(lambda: bool(load.failures), what="clients notice")
        stack.docker("start", stack.container(service))
        stack.wait_healthy("valkey", "gateway")
        load.wait_for(10)
    books_agree(stack, load.answers, gateway_died=service == "gateway")


def test_a_restart_as_an_operator_does_it_loses_nothing(stack: Stack, load_key: str) -> None:
    with Load(stack.url, load_key) as load:
        stack.compose("restart", "--timeout", "40", "gateway")
        assert stack.state("gateway")["ExitCode"] == 0
        stack.wait_healthy("gateway")
        load.wait_for(10)
    books_agree(stack, load.answers)


def test_process_one_ends_at_once_and_well_when_told_to(stack: Stack, load_key: str) -> None:
    assert load_key
    for service in ("gateway", "valkey"):
        stack.compose("stop", service)
        assert stack.state(service)["ExitCode"] == 0, service
    stack.compose("up", "-d")
    stack.wait_healthy("valkey", "gateway")


def test_a_store_cut_off_the_network_heals_by_itself(stack: Stack, load_key: str) -> None:
    network, store = f"{stack.project}_store", stack.container("valkey")
    with sdk(stack.url, load_key) as client, Load(stack.url, load_key) as load:
        streamed: list[Answered] = []
        # It starts with the store and ends without it, so its settlement waits on disk.
        running = threading.Thread(target=lambda: streamed.append(stream_once(client, "sim/slow-50+tokens-100")))
        running.start()
        load.wait_for(5)
        stack.docker("network", "disconnect", network, store)
        wait_until_sync(
            lambda: any("store_unavailable" in text for text in load.failures), timeout_s=20, what="refusals"
        )
        assert httpx.get(f"{stack.url}/readyz").status_code == 503
        assert httpx.get(f"{stack.url}/healthz").status_code == 200
        with pytest.raises(openai.InternalServerError) as refused:
            ask_once(client)
        assert (refused.value.status_code, refused.value.code) == (503, "store_unavailable")
        running.join(timeout=60)
        assert streamed, "the stream goes on without the store"
        stack.docker("network", "connect", "--alias", "valkey", network, store)
        wait_until_sync(lambda: httpx.get(f"{stack.url}/readyz").is_success, what="ready again")
        load.wait_for(10)
    books_agree(stack, [*load.answers, *streamed])


def test_a_backup_restored_has_the_balances_and_keys_of_its_moment(stack: Stack, load_key: str, tmp_path: Path) -> None:
    balance = stack.admin(f"/teams/{TEAM}")["balance"]
    backup = tmp_path / "store.rdb"
    stack.type(f"deploy/backup.sh {backup}")
    with sdk(stack.url, load_key) as client:
        ask_once(client)
        assert stack.admin(f"/teams/{TEAM}")["balance"] != balance
        stack.type(f"deploy/restore.sh {backup} --yes")
        stack.wait_healthy("valkey", "gateway")
        assert stack.admin(f"/teams/{TEAM}")["balance"] == balance
        answer = ask_once(client)
    # What was restored is journalled like everything else.
    stack.compose("restart", "valkey")
    stack.wait_healthy("valkey", "gateway")
    books_agree(stack, [answer])


@pytest.fixture(scope="module")
def front(stack: Stack, load_key: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Three gateways behind Caddy: their address, and the certificate to trust."""
    assert load_key
    stack.environ |= {
        "COMPOSE_PROFILES": "simulator,tls,scale",
        "GATEWAYS": " ".join(f"{name}:8080" for name in GATEWAYS),
    }
    stack.compose("up", "-d")
    stack.wait_healthy(*GATEWAYS)
    root = tmp_path_factory.mktemp("ca") / "root.crt"
    container, url = stack.container("caddy"), f"https://localhost:{stack.https_port}"
    authority = "/data/caddy/pki/authorities/local/root.crt"
    wait_until_sync(lambda: stack.attempt(container, "test", "-s", authority).returncode == 0, what="a certificate")
    stack.docker("cp", f"{container}:{authority}", str(root))
    wait_until_sync(lambda: _answers(url, root), what="Caddy answers")
    return url, root


def _answers(url: str, root: Path) -> bool:
    try:
        return httpx.get(f"{url}/readyz", verify=trust(root)).is_success
    except httpx.TransportError:
        return False


def test_streams_pass_caddy_as_they_are_made(stack: Stack, front: tuple[str, Path], load_key: str) -> None:
    url, root = front
    with (
        sdk(url, load_key, ca_file=root) as client,
        client.responses.create(model="sim/slow-20+tokens-100", input="hello", stream=True) as events,
    ):
        arrivals = [time.monotonic() for _ in events]
    assert arrivals[-1] - arrivals[0] > 1
    assert httpx.get(f"http://localhost:{stack.http_port}/healthz").status_code == 308
    assert "server" not in httpx.get(f"{url}/healthz", verify=trust(root)).headers


def test_three_gateways_replaced_one_by_one_fail_no_request(
    stack: Stack, front: tuple[str, Path], load_key: str
) -> None:
    url, root = front
    with Load(url, load_key, clients=3, ca_file=root) as load, sdk(url, load_key, ca_file=root) as client:
        streamed: list[Answered] = []
        for service in GATEWAYS:
            before = stack.container(service)
            running = threading.Thread(target=lambda: streamed.append(stream_once(client, "sim/slow-40+tokens-200")))
            running.start()
            stack.compose("up", "-d", "--no-deps", "--force-recreate", service)
            stack.wait_healthy(service)
            running.join(timeout=60)
            assert stack.container(service) != before
        load.wait_for(20)
    assert load.failures == []
    assert len(streamed) == len(GATEWAYS), "a stream was cut"
    books_agree(stack, [*load.answers, *streamed])


def test_prometheus_scrapes_every_gateway_and_can_answer_every_rule_and_panel(
    stack: Stack, front: tuple[str, Path]
) -> None:
    assert front
    stack.compose("up", "-d", "--no-deps", "prometheus")

    def ask(path: str, **query: str) -> dict[str, Any]:
        answer = httpx.get(f"http://127.0.0.1:{stack.prometheus_port}/api/v1/{path}", params=query)
        found: dict[str, Any] = answer.raise_for_status().json()["data"]
        return found

    def scraped() -> bool:
        time.sleep(0.5)  # it looks every 15 s
        try:
            return [target["health"] for target in ask("targets")["activeTargets"]] == ["up"] * len(GATEWAYS)
        except httpx.HTTPError:
            return False

    wait_until_sync(scraped, timeout_s=90, what="every gateway is scraped")
    (requests,) = ask("query", query="sum(gateway_requests_total)")["result"]
    assert float(requests["value"][1]) > 0
    loaded = [rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]]
    assert loaded == [rule["alert"] for rule in rules()]
    for expression in expressions():
        ask("query", query=expression.replace("$__rate_interval", "1m"))


def test_a_second_build_without_a_cache_has_the_same_layers(stack: Stack, another_build: Future[Any]) -> None:
    assert another_build.result(timeout=300) == stack.layers(stack.environ["GATEWAY_IMAGE"])


def test_nothing_is_left_when_it_is_taken_down(stack: Stack, front: tuple[str, Path]) -> None:
    assert front
    assert set(stack.left_behind()) == {"container", "volume", "network"}
    stack.compose("down", "--volumes", "--timeout", "20")
    assert stack.left_behind() == {}
