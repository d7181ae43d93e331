"""`gateway doctor` passes on real processes, and fails on a gateway that enforces nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import staging_gateway
from gateway.cli.staging_gateway import max_overlap
from tests.support.configured import configured
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway
from tests.support.program import run
from tests.support.servers import Server
from tests.support.shell import Shell

ADMIN = '[admin]\nkey = "env:TEST_ADMIN_KEY"\n'
CHECKS = ("concurrency", "requests per minute", "budget", "client leaves", "rotation under load")
CONTROLLED = ("SIGKILL in mid-stream", "store pause")
FEW = ("--requests", "12", "--max-output-tokens", "64", "--yes", "--json")


def found(text: str) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in json.loads(text)}


@pytest.fixture(name="shell")
def _shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(gateway, capsys)


@pytest.mark.timeout(120)  # some hundred requests
def test_without_process_ids_what_needs_them_is_skipped_and_says_so(shell: Shell) -> None:
    done = shell("doctor", "--model", "sim/slow-20", *FEW)
    seen = found(done.out)
    assert {name: seen[name]["passed"] for name in CHECKS} == dict.fromkeys(CHECKS, True), done.out
    assert seen["ledger"]["passed"] is True
    for name in CONTROLLED:
        assert seen[name]["passed"] is None
        assert "PID" in seen[name]["detail"]
    assert done.code == 0
    assert not [team for team in shell.json("teams", "list") if team["name"].startswith("doctor-")]


@pytest.mark.timeout(180)  # a killed worker, a paused store, and waiting for what they held
def test_on_real_processes_a_kill_and_a_pause_are_survived(store: Server, upstream: str, tmp_path: Path) -> None:
    own = configured(store.url, upstream, tmp_path, workers=2, more=ADMIN)
    with own.serving(env={"TEST_ADMIN_KEY": ADMIN_KEY}) as serving:
        worker, pid = serving.workers[0], store.pid
        env = {"GATEWAY_URL": serving.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY, "GATEWAY_PROFILE": ""}
        words = ("--kill", str(worker), "--pause-store", str(pid), "--pause-s", "1")
        done = run("doctor", "--model", "sim/slow-20", *FEW, *words, cwd=tmp_path, env=env)
        seen = found(done.out)
        assert {name: one["passed"] for name, one in seen.items()} == dict.fromkeys(
            (*CHECKS, *CONTROLLED, "ledger"), True
        )
        assert done.code == 0
        assert worker not in serving.workers


@pytest.mark.timeout(120)  # some hundred requests
def test_a_gateway_that_fails_a_promise_is_found_out(
    store: Server, upstream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(staging_gateway, "MAX_WAIT_S", 5.0)  # what it waits for does not come
    broken = {"replay_within_s": 0, "drain_timeout_s": 0.1, "on_client_leave": "abort"}
    with running_gateway(store.url, upstream, tmp_path / "data", upstream=broken) as gateway:
        ledger = gateway.services.ledger
        admit = ledger.admit

        async def unlimited(request: Any) -> Any:
            return await admit(request._replace(free=True))

        monkeypatch.setattr(ledger, "admit", unlimited)
        done = Shell(gateway, capsys)("doctor", "--model", "sim/slow-20", *FEW)
    seen = found(done.out)
    assert (done.code, seen["concurrency"]["passed"], seen["requests per minute"]["passed"]) == (1, False, False)
    assert seen["ledger"]["passed"] is False
    assert "not every check passed" in done.err


def test_a_model_that_is_not_served_is_said_at_once(shell: Shell) -> None:
    done = shell("doctor", "--model", "sim/error-400", *FEW)
    assert done.code == 1
    assert "a first request was not served: 400" in done.err
    assert not [team for team in shell.json("teams", "list") if team["name"].startswith("doctor-")]


def test_it_asks_before_it_spends_anything(shell: Shell) -> None:
    assert shell("doctor", "--model", "o4-mini").code == 2


@pytest.mark.parametrize(
    ("spans", "highest"),
    [([], 0), ([(0, 1), (1, 2)], 1), ([(0, 2), (1, 3), (2, 4)], 2), ([(0, 9), (1, 2), (3, 4), (3, 5)], 3)],
)
def test_the_overlap_is_the_largest_number_of_spans_at_one_time(spans: list[tuple[float, float]], highest: int) -> None:
    assert max_overlap(spans) == highest
