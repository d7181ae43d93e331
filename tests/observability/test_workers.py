"""Several workers: any of them answers for all, and what one counted stays when it is gone."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from gateway.observability.metrics.counters import Snapshot
from gateway.observability.metrics.multiprocess import SharedMetrics
from tests.observability.scrape import value
from tests.support.configured import configured
from tests.support.gateway import RunningGateway
from tests.support.ports import free_port
from tests.support.processes import READY
from tests.support.program import is_alive
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

COMPLETED = {"outcome": "completed", "status": "200"}


def ask(url: str, key: str, count: int) -> None:
    """Each on a connection of its own: the system spreads them over the workers."""
    for _ in range(count):
        answer = httpx.post(
            f"{url}/v1/responses",
            json={"model": "o4-mini", "input": "x"},
            headers={"authorization": f"Bearer {key}", "connection": "close"},
        )
        assert answer.status_code == 200


def completed(url: str) -> float:
    return value(url, "gateway_requests_total", **COMPLETED)


def test_counts_of_all_workers_are_added_up_and_outlive_them(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    key = gateway.new_key().text
    with configured(store.url, upstream, tmp_path / "workers", workers=2).serving() as served:
        ask(served.url, key, 12)
        wait_until_sync(lambda: completed(served.url) == 12, what="both workers' counts are seen")
        assert value(served.url, "gateway_workers", state="ready") == 2
        assert value(served.url, "gateway_build_info") == 1
        victim = served.workers[0]
        os.kill(victim, signal.SIGKILL)
        served.program.wait_for(READY, count=3)
        ask(served.url, key, 5)
        wait_until_sync(lambda: completed(served.url) == 17, what="the dead worker's counts are still there")
        wait_until_sync(lambda: value(served.url, "gateway_workers", state="ready") == 2, what="it lives no more")
        reports = list((tmp_path / "workers" / "data" / "metrics").glob("run-*/*.json"))
        assert len(reports) == 2, "the new worker has taken the dead one's over"
        assert not any(report.name.startswith(f"{victim}-") for report in reports)
    assert list((tmp_path / "workers" / "data" / "metrics").iterdir()) == []


def test_what_a_killed_supervisor_left_is_removed_by_the_next(store: Server, upstream: str, tmp_path: Path) -> None:
    gateway = configured(store.url, upstream, tmp_path / "workers", workers=2)
    home = tmp_path / "workers" / "data" / "metrics"
    with gateway.serving() as served:
        workers = served.workers
        served.program.kill()
    wait_until_sync(
        lambda: not any(map(is_alive, workers)), what="its workers have ended, and with them the port is free"
    )
    (left,) = home.iterdir()
    with gateway.serving():
        assert left not in home.iterdir()
        assert len(list(home.iterdir())) == 1


def test_on_a_port_of_their_own_operators_find_everything_and_clients_nothing(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    port = free_port()
    own = configured(store.url, upstream, tmp_path / "own", workers=2, more=f"[admin]\nport = {port}")
    with own.serving() as served:
        operators = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{operators}/metrics").status_code == 200
        assert httpx.get(f"{operators}/readyz").status_code == 200
        assert httpx.get(f"{operators}/admin/v1/teams").json()["error"]["code"] == "admin_disabled"
        assert httpx.post(f"{operators}/v1/responses", json={}).status_code == 404
        assert httpx.get(f"{served.url}/metrics").status_code == 404
        ask(served.url, gateway.new_key().text, 1)


def test_a_port_for_operators_that_is_taken_is_one_line(store: Server, upstream: str, tmp_path: Path) -> None:
    own = configured(store.url, upstream, tmp_path / "own")
    more = f"[admin]\nport = {own.port}"
    (tmp_path / "own" / "gateway.toml").write_text((tmp_path / "own" / "gateway.toml").read_text() + more)
    with own.program() as program:
        program.process.wait(timeout=30)
        assert "take another with admin.port" in program.err
        assert "Traceback" not in program.err


def test_a_file_that_is_not_a_workers_report_counts_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file or process, or one that a full disk cut short."""
    for name, text in (("1-other.json", "{"), ("2-other.json", "[]"), ("x-other.json", "{}")):
        (tmp_path / name).write_text(text)
    (tmp_path / "3-other.json").mkdir()  # cannot be read, whoever asks
    count: Snapshot = {"n": {(): 1}}
    mine, other = SharedMetrics(tmp_path), SharedMetrics(tmp_path)
    mine.take_over()
    other.publish(count, {})

    def of_another_user(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another_user)
    assert mine.total(count, count) == {"n": {(): 3}}
