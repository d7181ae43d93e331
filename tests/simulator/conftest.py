"""A simulator on a real uvicorn on a real socket, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from gateway.simulator import build_simulator
from tests.simulator.client import Simulator


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an application in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    # log_level: uvicorn reports a cut answer as an error, and here it is intended
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def simulator_url() -> Iterator[str]:
    with running(build_simulator()) as url:
        yield url


@pytest.fixture
def simulator(simulator_url: str) -> Iterator[Simulator]:
    headers = {"authorization": "Bearer sk-anything"}
    with httpx.Client(base_url=simulator_url, headers=headers, timeout=10) as client:
        yield Simulator(client)
