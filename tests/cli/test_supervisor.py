"""`gateway serve --workers 2`: workers that are slow, die, hang or cannot start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.configured import Configured, configured
from tests.support.processes import READY, UPSTREAM_KEY, GatewayProcess
from tests.support.program import environment, run
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


def test_a_worker_that_takes_long_to_start_is_waited_for(two: Configured) -> None:
    # 5 s is what uvicorn's own supervisor waits.
    (two.directory / "sitecustomize.py").write_text(IN_A_WORKER.format("time.sleep(6)"))
    with two.serving(path=two.directory) as served:
        assert said(served, "ready") == 2
        assert said(served, "worker_died") == 0


def test_a_worker_that_dies_is_replaced_as_soon_as_the_configuration_can_be_used(two: Configured) -> None:
    config = two.directory / "gateway.toml"
    good = config.read_text()
    with two.serving() as served:
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
    (two.directory / "impatient_gateway.py").write_text(IMPATIENT)
    err = two.directory / "err"
    with err.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "impatient_gateway.py", "serve", "--config", "gateway.toml"],
            cwd=two.directory, env=environment({"TEST_UPSTREAM_KEY": UPSTREAM_KEY}), stderr=log, stdout=log,
        )  # fmt: skip
    try:
        wait_until_sync(lambda: err.read_text().count(READY) == 2, what="both are ready")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGSTOP)
        (two.directory / "impatient").touch()
        wait_until_sync(lambda: "worker_hung" in err.read_text(), what="it is noticed")
        (two.directory / "impatient").unlink()
        wait_until_sync(lambda: err.read_text().count(READY) == 3, what="another one is ready")
        assert f'"pid": {workers[0]}' in next(line for line in err.read_text().splitlines() if "worker_hung" in line)
    finally:
        process.terminate()
        assert process.wait(timeout=100) == 0
