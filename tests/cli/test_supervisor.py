"""`gateway serve --workers 2`: workers that are slow, die, hang or cannot start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.configured import Configured, configured
from tests.support.processes import READY, UPSTREAM_KEY, GatewayProcess, workers_of
from tests.support.program import environment, run, start
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.timeout(150)  # processes start slowly on a shared machine

AWAY = "http://127.0.0.1:9/v1"
# Python runs this at its start, in a worker only.
IN_A_WORKER = "import os, sys, time\nif 'multiprocessing.spawn' in ' '.join(sys.orig_argv):\n    {}\n"


@pytest.fixture
def two(store: Server, tmp_path: Path) -> Configured:
    return configured(store.url, AWAY, tmp_path, workers=2)


def events(served: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.program.err.splitlines() if line.startswith("{")]


def said(served: GatewayProcess, event: str) -> int:
    return [line["event"] for line in events(served)].count(event)


def is_alive(served: GatewayProcess) -> bool:
    return httpx.get(f"{served.url}/healthz", trust_env=False).is_success


@contextlib.contextmanager
def running(two: Configured, program: str) -> Iterator[tuple[int, Path]]:
    """Runs `gateway serve` inside of a program of the test's. Yields its process id and its log; it must end well."""
    err = two.directory / "err"
    with err.open("w") as log:
        words = ("-c", program, "serve", "--config", "gateway.toml")
        process = start(words, two.directory, environment({"TEST_UPSTREAM_KEY": UPSTREAM_KEY}), log, log)
    try:
        yield process.pid, err
    finally:
        process.terminate()
        assert process.wait(timeout=100) == 0


# The workers are forks of the program (tests/support/fork_server.py), and begin with this call.
SLOW = """
import multiprocessing.spawn, time
from gateway.cli import main
begin = multiprocessing.spawn.spawn_main
def begin_late(**arguments):
    print("a worker is late", flush=True)
    time.sleep(6)
    begin(**arguments)
multiprocessing.spawn.spawn_main = begin_late
main()
"""


def test_a_worker_that_takes_long_to_start_is_waited_for(two: Configured) -> None:
    # 5 s is what uvicorn's own supervisor waits.
    with running(two, SLOW) as (_, err):
        wait_until_sync(lambda: err.read_text().count(READY) == 2, what="both are ready")
        assert err.read_text().count("a worker is late") == 2
        assert "worker_died" not in err.read_text()


def test_a_worker_that_dies_is_replaced_as_soon_as_the_configuration_can_be_used(two: Configured) -> None:
    config = two.directory / "gateway.toml"
    good = config.read_text()
    with two.serving() as served:
        served.program.process.send_signal(signal.SIGHUP)  # which the supervisor passes on before it asks who serves
        served.program.wait_for('"event": "config_reloaded"', count=2)
        config.write_text(good + "\n[nonsense]\n")
        victim = served.workers[0]
        os.kill(victim, signal.SIGKILL)
        wait_until_sync(lambda: said(served, "worker_not_started") >= 1, what="the new one says why")
        reason = next(line["reason"] for line in events(served) if line["event"] == "worker_not_started")
        assert "nonsense" in reason
        died = next(line for line in events(served) if line["event"] == "worker_died")
        assert (died["pid"], died["exit_code"], died["level"]) == (victim, -signal.SIGKILL, "error")
        assert is_alive(served)
        config.write_text(good)
        served.program.wait_for(READY, count=3)
        assert "Traceback" not in served.program.err


def test_a_worker_that_hangs_does_not_hold_up_the_end(two: Configured) -> None:
    with two.serving() as served:
        hung = served.workers[0]
        os.kill(hung, signal.SIGSTOP)
        assert served.program.stop(signal.SIGTERM) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)


def test_where_no_worker_can_start_the_gateway_ends_and_says_so(two: Configured) -> None:
    # Its configuration is valid for the command line, but not for the workers.
    (two.directory / "sitecustomize.py").write_text(IN_A_WORKER.format("os.environ.pop('TEST_UPSTREAM_KEY', None)"))
    path = f"{two.directory}:{environment()['PYTHONPATH']}"
    done = run(
        "serve", "--config", "gateway.toml", cwd=two.directory, env={"TEST_UPSTREAM_KEY": "k", "PYTHONPATH": path}
    )
    assert done.code == 1
    assert '"event": "worker_not_started"' in done.err
    assert "Traceback" not in done.err


IMPATIENT = """
import pathlib, threading, time, gateway.server
from gateway.cli import main
def wait():
    while True:
        gateway.server.HUNG_S = 3.0 if pathlib.Path("impatient").exists() else 60.0
        time.sleep(0.05)
if __name__ == "__main__":
    threading.Thread(target=wait, daemon=True).start()
    main()
"""


def test_a_worker_that_hangs_is_killed_and_replaced(two: Configured) -> None:
    # The real program, impatient while the test demands it: the next worker may take its time to start.
    with running(two, IMPATIENT) as (supervisor, err):
        wait_until_sync(lambda: err.read_text().count(READY) == 2, what="both are ready")
        worker, _ = workers_of(supervisor)
        os.kill(worker, signal.SIGSTOP)
        (two.directory / "impatient").touch()
        wait_until_sync(lambda: "worker_hung" in err.read_text(), what="it is noticed")
        (two.directory / "impatient").unlink()
        wait_until_sync(lambda: err.read_text().count(READY) == 3, what="another one is ready")
        assert f'"pid": {worker}' in next(line for line in err.read_text().splitlines() if "worker_hung" in line)
