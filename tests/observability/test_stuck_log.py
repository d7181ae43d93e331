"""A log that nobody reads: the gateway continues, counts lost lines, and reports them when the log is read again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.observability.log_writer import LogWriter
from tests.support.gateway import simulator
from tests.support.ports import free_port
from tests.support.processes import CONFIG, UPSTREAM_KEY
from tests.support.program import PROGRAM, environment
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

WRONG_KEY = {"authorization": "Bearer sk-gw-nobody"}
MANY = 500  # lines of requests: far more than a pipe of 64 KiB holds


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@contextlib.contextmanager
def unread(store: Server, directory: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A gateway whose log is a pipe that nobody reads, ready to serve."""
    port = free_port()
    config = directory / "gateway.toml"
    env = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY, "GATEWAY_LOG__BUFFER_BYTES": "65536"}
    command = [*PROGRAM, "serve", "--config", str(config)]
    with simulator() as upstream:
        text = CONFIG.format(
            port=port, workers=1, store_url=store.url, upstream_url=upstream, hold_ttl_s=15.0, route=""
        )
        config.write_text(text, encoding="utf-8")
        with (
            subprocess.Popen(
                command, cwd=directory, env=environment(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as process,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        ):
            try:
                wait_until_sync(lambda: _answers(client, "/readyz"), what="the gateway is ready")
                yield client, process
            finally:
                process.kill()


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _ask_often(client: httpx.Client) -> None:
    for _ in range(MANY):
        answer = client.post("/v1/responses", json={"model": "m", "input": ""}, headers=WRONG_KEY)
        assert answer.status_code == 401


def test_a_gateway_whose_log_is_a_full_pipe_serves_on_and_says_later_what_it_dropped(
    store: Server, tmp_path: Path
) -> None:
    with unread(store, tmp_path) as (client, process):
        _ask_often(client)
        assert client.get("/healthz").status_code == 200
        assert "gateway_log_lines_dropped_total 0" not in client.get("/metrics").text
        lines = _read(process)
        wait_until_sync(lambda: _dropped(lines) > 0, what="the gateway says what it dropped")
        written = sum(line["event"] == "request" for line in _parsed(lines))
        assert written + _dropped(lines) >= MANY


def test_a_gateway_whose_log_is_stuck_ends_all_the_same(store: Server, tmp_path: Path) -> None:
    with unread(store, tmp_path) as (client, process):
        _ask_often(client)
        process.terminate()
        assert process.wait(timeout=100) == 0


def _read(process: subprocess.Popen[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    stream = process.stderr
    assert stream is not None
    threading.Thread(target=lambda: lines.extend(iter(stream.readline, b"")), daemon=True).start()
    return lines


def _parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(lines)]


def _dropped(lines: list[bytes]) -> int:
    return sum(line["count"] for line in _parsed(lines) if line["event"] == "log_lines_dropped")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full: its reader has not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def _read_until(reader: int, text: bytes) -> bytes:
    read = b""
    while text not in read:
        read += os.read(reader, 65536)
    return read


def test_lines_beyond_the_buffer_are_dropped_whole_and_counted(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    told: list[int] = []
    writer = LogWriter(os.fdopen(os.dup(end), "w"), max_bytes=1000, on_dropped=told.append)
    for number in range(100):
        writer.write(f"line {number:010}\n")  # 16 bytes
    wait_until_sync(lambda: writer.dropped >= 100 - 2 * 1000 // 16)
    _read_until(reader, b"line 0000000000\n")
    wait_until_sync(lambda: bool(told), what="it is told when the log flows again")
    assert told == [writer.dropped]
    writer.write("the last\n")
    assert writer.drain(10)
    rest = _read_until(reader, b"the last\n").decode().splitlines()
    assert all(len(line) == 15 or line == "the last" for line in rest)


def test_a_writer_that_must_lose_no_line_waits_for_room(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    writer = LogWriter(os.fdopen(os.dup(end), "w"), max_bytes=1000, waits=True)
    lines = [f"line {number:010}\n" for number in range(200)]
    thread = threading.Thread(target=lambda: [writer.write(line) for line in lines])
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "nobody reads: it waits"
    read = _read_until(reader, lines[-1].encode())
    thread.join(10)
    assert read.lstrip(b".").decode() == "".join(lines)
    assert writer.dropped == 0


def test_a_line_that_is_longer_than_the_buffer_is_written_when_nothing_else_waits(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        writer = LogWriter(file, max_bytes=1000, waits=True)
        writer.write("x" * 5000 + "\n")
        writer.write("y\n")
        assert writer.drain(10)
    assert (tmp_path / "log").read_text() == "x" * 5000 + "\ny\n"


def test_a_log_that_cannot_be_written_any_more_costs_its_lines_and_nothing_else() -> None:
    reader, end = os.pipe()
    os.close(reader)
    writer = LogWriter(os.fdopen(end, "w"), max_bytes=1000)
    writer.write("to nobody\n")
    wait_until_sync(lambda: writer.dropped == 1)
