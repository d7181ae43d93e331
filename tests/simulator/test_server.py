"""The simulator as a program."""

import asyncio
import socket
import subprocess
import sys

import httpx
import pytest

from gateway.simulator import serve
from tests.support.waiting import wait_until_sync

PROGRAM = "import sys; from gateway.simulator import run; run('127.0.0.1', int(sys.argv[1]))"


def test_it_says_where_it_listens_answers_there_and_ends_quietly_when_asked() -> None:
    command = [sys.executable, "-c", PROGRAM, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        line = program.stdout.readline()
        base_url = line.split()[-1]
        assert line == f"Simulator: OpenResponses at {base_url}\n"
        headers = {"authorization": "Bearer x"}
        body = {"model": "o4-mini", "input": "Hello, world!"}
        assert httpx.post(f"{base_url}/responses", json=body, headers=headers).status_code == 200
        cut = {"model": "sim/cut-1", "input": "x", "stream": True}
        with httpx.stream("POST", f"{base_url}/responses", json=cut, headers=headers) as answer:
            assert answer.status_code == 200
        program.terminate()
        wait_until_sync(lambda: program.poll() is not None)
        assert program.stderr.read() == ""


def test_a_port_in_use_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(port)], capture_output=True, text=True, check=False, timeout=30
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Simulator: cannot listen on 127.0.0.1 port {port}: ")
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_it_serves_in_a_program_of_its_own_until_cancelled() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models"
    serving = asyncio.create_task(serve(listener))
    async with httpx.AsyncClient(headers={"authorization": "Bearer x"}) as client:
        assert (await client.get(url)).status_code == 200
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "an answer's body waits for no ACK"
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(httpx.TransportError):
            await client.get(url)
