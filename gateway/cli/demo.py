"""`gateway demo`: everything that a newcomer needs, in one process and one directory.

    data/admin-key       the key of the admin API; created once, mode 600
    data/demo-key        the key of the team "demo"; created once, mode 600
    data/gateway.toml    the configuration of the demo, written at each start; a starting point for one's own
    data/...             the embedded store (store/embedded.py)

The gateway runs in the main thread. There are two more threads. One runs the simulator if no provider's key is given.
The other waits until the gateway serves, creates the team and the key through the admin API, and prints what to do
next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import httpx

from gateway import server, simulator
from gateway.cli.client import AdminApiError, AdminClient, team_path
from gateway.cli.errors import CliError
from gateway.cli.greeting import Demo, text
from gateway.cli.serve import listening, stored, until_stopped, url_of
from gateway.config.errors import SettingsError
from gateway.config.settings import settings_from
from gateway.store.url import EMBEDDED

TEAM: Final = "demo"
CREDITS_USD: Final = "10"
PROVIDER_KEY: Final = "SIRAYA_API_KEY"
PROVIDER_URL: Final = "https://llm.siraya.pro/v1"
READY_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.02


def run(port: int, data_dir: Path) -> None:
    """Serves until it is stopped. Raises CliError if it cannot start."""
    with until_stopped(), contextlib.ExitStack() as stack:
        admin_key = _secret_file(data_dir / "admin-key", f"gw-admin-{secrets.token_urlsafe(32)}")
        simulated = (
            None if os.environ.get(PROVIDER_KEY) else stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        )
        if simulated is not None:
            _secret_file(data_dir / "simulator-key", "any-key-will-do")
        config = _configuration(port, data_dir, simulated)
        try:
            settings = settings_from(tomllib.loads(config), "the demo's configuration")
        except SettingsError as error:
            raise CliError(*error.problems) from None
        listener = stack.enter_context(listening(settings))
        settings = stack.enter_context(stored(settings))
        (data_dir / "gateway.toml").write_text(config, encoding="utf-8")
        if simulated is not None:
            stack.enter_context(_simulator(simulated))
        demo = Demo(url_of(listener), data_dir, simulated=simulated is not None)
        greeting = stack.enter_context(Greeting(demo, admin_key))
        with until_stopped():
            if server.run(settings, None, listener):
                raise CliError("the gateway could not start; the lines above say why")
        if greeting.fault is not None:
            raise greeting.fault


class Greeting(threading.Thread):
    """Waits for the gateway, provides team and key, prints the greeting.

    Mutable: `fault`, the reason why it ended the demo.
    """

    def __init__(self, demo: Demo, admin_key: str) -> None:
        super().__init__(name="greeting", daemon=True)
        self.fault: CliError | None = None
        self._demo = demo
        self._admin_key = admin_key
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(timeout=5)

    def run(self) -> None:
        """The thread's work."""
        try:
            with AdminClient(self._demo.url, self._admin_key, str(self._demo.data_dir / "admin-key")) as client:
                if self._wait_until_ready(client):
                    key = _team_key(client, self._demo)
                    sys.stdout.write(text(self._demo, key))
                    sys.stdout.flush()
        except CliError as fault:
            self._end_with(fault)
        except (OSError, UnicodeDecodeError, httpx.TransportError) as error:
            self._end_with(CliError(f"the demo's key could not be created: {error}"))

    def _end_with(self, fault: CliError) -> None:
        if not self._over.is_set():  # otherwise the gateway was stopped in the meantime
            self.fault = fault
            os.kill(os.getpid(), signal.SIGTERM)

    def _wait_until_ready(self, client: AdminClient) -> bool:
        for _ in range(round(READY_TIMEOUT_S / _POLL_S)):
            if client.is_ready():
                return True
            if self._over.wait(_POLL_S):
                return False
        raise CliError(f"the gateway was not ready within {READY_TIMEOUT_S:g} s; GET {self._demo.url}/readyz says why")


def _team_key(client: AdminClient, demo: Demo) -> str:
    """Returns the key of the team "demo": the stored one if the gateway still accepts it, or a new one."""
    path = demo.data_dir / "demo-key"
    if path.exists():
        key = path.read_text(encoding="ascii").strip()
        answer = httpx.get(
            f"{demo.url}/v1/key", headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=10
        )
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return key
        path.unlink()
    try:
        client.get(team_path(TEAM))
    except AdminApiError as refused:
        if refused.code != "team_not_found":
            raise
        client.post("/teams", {"name": TEAM, "credits_usd": CREDITS_USD, "limits": {"rpm": 60, "concurrency": 10}})
    created = client.post(f"{team_path(TEAM)}/keys", {"name": "demo"})
    return _secret_file(path, str(created["key"]))


def _secret_file(path: Path, secret: str) -> str:
    """Returns the secret in a file. A missing file is created with `secret`, readable only by its owner."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file is written under another name and then linked, so that no reader sees a part of it. If two processes
        # start at once, the first one's secret is kept.
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise CliError(f"cannot use the data directory {path.parent}: {error.strerror or error}") from None


@contextlib.contextmanager
def _simulator(listener: socket.socket) -> Iterator[None]:
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


def _configuration(port: int, data_dir: Path, simulated: socket.socket | None) -> str:
    """Returns the demo's gateway.toml."""
    if simulated is None:
        name, base_url, key = "siraya", PROVIDER_URL, f"env:{PROVIDER_KEY}"
        note = ""
    else:
        name, base_url, key = "simulator", f"{url_of(simulated)}/v1", f"file:{data_dir / 'simulator-key'}"
        note = (
            "# The built-in simulator, which runs with the demo. By itself: gateway simulate --post-only --port 8081\n"
        )
    quoted = {
        "data_dir": json.dumps(str(data_dir)),
        "admin_key": json.dumps(f"file:{data_dir / 'admin-key'}"),
        "base_url": json.dumps(base_url),
        "key": json.dumps(key),
    }
    return f"""\
# The configuration of `gateway demo`, rewritten at each start. To change it, copy it and serve the copy:
#   gateway serve --config gateway.toml
# gateway.example.toml in the source explains every setting.

[server]
host = "127.0.0.1"
port = {port}

[store]
url = "{EMBEDDED}"
data_dir = {quoted["data_dir"]}

[admin]
key = {quoted["admin_key"]}

{note}[upstreams.{name}]
base_url = {quoted["base_url"]}
api_keys = [{quoted["key"]}]

[[routes]]
model = "*"
upstreams = ["{name}"]
state = "gateway"           # responses and conversations are kept here: the provider only answers POST

[prices."*"]                # USD per million tokens
input = "1.25"
cached_input = "0.125"
output = "10.00"
"""
