"""The gateway itself ends a request: its total time is over, or the process is told to stop.

SIGTERM   no new requests; running ones have `drain_timeout_s` to end, then a stream gets its closing events
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.faults.conftest import Stages
from tests.faults.test_upstream_fails import assert_last_words
from tests.support.scenario import MODEL, RawClient, Scenario, completed, created, delta, end_of_body, more, stream
from tests.support.scripted_upstream import hang, request, wait_for
from tests.support.waiting import wait_until

STOPPED = (0, -signal.SIGTERM)  # uvicorn ends by the signal that it received, after everything is done
PROGRAM = """
import sys
from pathlib import Path
from gateway.server import bind, run
from gateway.config.settings import load_settings
path = Path(sys.argv[1])
settings = load_settings(path)
listener = bind(settings)
print(listener.getsockname()[1], flush=True)
sys.exit(run(settings, path, listener))
"""


async def test_a_stream_that_takes_too_long_in_all_ends_with_closing_events(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script, server={"port": 0, "total_timeout_s": 1}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert_last_words(client.body, "upstream_timeout", first=2)
        await scenario.upstream_left()
        await scenario.ended(outcome="timed_out", settled_by="estimate", output_tokens=1, code="upstream_timeout")


async def test_a_request_that_takes_too_long_before_any_answer_is_a_408(stages: Stages) -> None:
    async with stages([request(), hang()], server={"port": 0, "total_timeout_s": 1}) as scenario:
        with pytest.raises(openai.APIStatusError) as caught:
            await scenario.sdk().responses.create(model=MODEL, input="hello")
        assert (caught.value.status_code, caught.value.code) == (408, "upstream_timeout")
        await scenario.upstream_left()
        (entry,) = await scenario.settled()
        assert (entry["outcome"], entry["by"], entry["out"]) == ("timed_out", "estimate", "0")


class Process:
    """A gateway in its own process, on the scenario's store and upstream."""

    def __init__(self, popen: "subprocess.Popen[str]", log: Path, url: str) -> None:
        self._popen = popen
        self._log = log
        self.url = url

    def terminate(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def log_lines(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == "request"]


@contextlib.contextmanager
def process(scenario: Scenario, directory: Path, *, drain_timeout_s: float) -> Iterator[Process]:
    config = directory / "gateway.toml"
    config.write_text(f"""
[server]
port = 0
drain_timeout_s = {drain_timeout_s}
[store]
url = "{scenario.store.url}"
accept_data_loss = true
data_dir = "{directory}"
[upstreams.simulator]
base_url = "{scenario.upstream.url}/v1"
api_keys = ["env:TEST_UPSTREAM_KEY"]
[[routes]]
model = "*"
upstreams = ["simulator"]
[prices."*"]
input = "1"
output = "10"
""")
    log = directory / "log"
    environment = {**os.environ, "TEST_UPSTREAM_KEY": "key"}
    with (
        log.open("w") as to,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(config)], stdout=subprocess.PIPE, stderr=to, text=True, env=environment
        ) as popen,
    ):
        try:
            assert popen.stdout is not None
            yield Process(popen, log, f"http://127.0.0.1:{popen.stdout.readline().strip()}")
        finally:
            popen.kill()


async def ask(scenario: Scenario, url: str) -> RawClient:
    """Sends a streamed request to the process instead of the scenario's own gateway."""
    here, scenario.gateway.url = scenario.gateway.url, url
    try:
        return await scenario.ask(stream=True)
    finally:
        scenario.gateway.url = here


async def test_sigterm_ends_open_streams_with_closing_events_and_settles_them(stages: Stages, tmp_path: Path) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script) as scenario:
        with process(scenario, tmp_path, drain_timeout_s=0.3) as gateway:
            client = await ask(scenario, gateway.url)
            await client.read_until(b'"one"')
            gateway.terminate()
            await client.read_all()
            assert_last_words(client.body, "shutting_down", first=2)
            await scenario.upstream_left()
            await wait_until(lambda: gateway.exit_code is not None, what="the process ends")
            assert gateway.exit_code in STOPPED
            (line,) = gateway.log_lines()
            assert (line["outcome"], line["settled_by"]) == ("shut_down", "estimate")
        (entry,) = scenario.journal()
        assert (entry["by"], entry["outcome"]) == ("estimate", "shut_down")
        assert scenario.gateway.balance(scenario.key).held == 0
        await (await scenario.ask()).read_until(b"resp_upstream1")


async def test_a_stream_that_ends_within_the_drain_is_whole(stages: Stages, tmp_path: Path) -> None:
    told = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(told), more(completed()), end_of_body()]
    async with stages(script) as scenario:
        with process(scenario, tmp_path, drain_timeout_s=20) as gateway:
            client = await ask(scenario, gateway.url)
            await client.read_until(b'"one"')
            gateway.terminate()
            await wait_until(lambda: not _accepts(gateway.url), what="no new connections are taken")
            told.set()
            await client.read_all()
            assert client.body == created() + delta("one") + completed()
            await wait_until(lambda: gateway.exit_code in STOPPED, what="the process ends")
        (entry,) = scenario.journal()
        assert (entry["by"], int(entry["amount"])) == ("usage", -(100 * 1_000 + 7 * 10_000))


def _accepts(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
