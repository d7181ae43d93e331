"""The built-in simulator beside a gateway, for upstreams with `base_url = "simulator"`.

It runs in a thread of the process that the command started. Workers get its address in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator

from gateway import simulator
from gateway.config.settings import Settings
from gateway.config.upstream_settings import SIMULATOR


@contextlib.contextmanager
def simulated(settings: Settings) -> Iterator[Settings]:
    """Yields the settings with the address of a simulator, which runs until the block ends if an upstream needs it."""
    names = [name for name, upstream in settings.upstreams.items() if upstream.base_url == SIMULATOR]
    if not names:
        yield settings
        return
    with socket.create_server(("127.0.0.1", 0)) as listener, _served(listener):
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        os.environ.update({f"GATEWAY_UPSTREAMS__{name.upper()}__BASE_URL": base_url for name in names})
        found = {name: settings.upstreams[name].model_copy(update={"base_url": base_url}) for name in names}
        yield settings.model_copy(update={"upstreams": {**settings.upstreams, **found}})


@contextlib.contextmanager
def _served(listener: socket.socket) -> Iterator[None]:
    """Runs the simulator in a thread with its own event loop."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(simulator.serve(listener, post_only=True))

    def work() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=work, name="simulator", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=5)
