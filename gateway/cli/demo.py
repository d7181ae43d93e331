"""`gateway demo`: everything that a newcomer needs, in one process and one directory.

    data/admin-key       the key of the admin API; created once, mode 600
    data/demo-key        the key of the team "demo"; created once, mode 600
    data/gateway.toml    the configuration of the demo, written at each start; a starting point for one's own
    data/...             the embedded store (store/embedded.py)

The gateway runs in the main thread. There are two more threads. One runs the simulator if no provider's key is given
(simulated). The other waits until the gateway serves, creates the team and the key through the admin API, and prints
what to do next.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
import time
import tomllib
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

from gateway import server
from gateway.cli.calls import NoAnswerError, NoConnectionError
from gateway.cli.client import AdminApiError, AdminClient, called, team_path
from gateway.cli.errors import CliError
from gateway.cli.greeting import Demo, text
from gateway.cli.init import PROVIDERS, Answers, Provider, configuration, secret_file
from gateway.cli.serve import listening, stored, until_stopped, url_of
from gateway.cli.simulated import simulated
from gateway.config.errors import SettingsError, Source
from gateway.config.settings import settings_from
from gateway.config.upstream_settings import SIMULATOR
from gateway.store.url import EMBEDDED

TEAM: Final = "demo"
CREDITS_USD: Final = "10"
HEADING: Final = """\
# The configuration of `gateway demo`, rewritten at each start. To change it, copy it, stop the demo and serve the copy:
#   gateway serve --config gateway.toml

"""
READY_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.02
_RETRY_S: Final = 0.2


def run(host: str, port: int, data_dir: Path) -> None:
    """Serves until it is stopped. Raises CliError if it cannot start."""
    with until_stopped(), contextlib.ExitStack() as stack:
        admin_key = secret_file(data_dir / "admin-key", f"gw-admin-{secrets.token_urlsafe(32)}")
        provider = PROVIDERS["siraya" if os.environ.get(PROVIDERS["siraya"].key_variable) else SIMULATOR]
        if provider.base_url == SIMULATOR:
            secret_file(data_dir / "simulator-key", "any-key-will-do")
        config = _configuration(host, port, data_dir.absolute(), provider)
        try:
            settings = settings_from(tomllib.loads(config), Source("the demo's configuration"))
        except SettingsError as error:
            raise CliError(*error.problems) from None
        listener = stack.enter_context(listening(settings))
        settings = stack.enter_context(stored(settings))
        config = _configuration(host, listener.getsockname()[1], data_dir.absolute(), provider)
        (data_dir / "gateway.toml").write_text(config, encoding="utf-8")
        settings = stack.enter_context(simulated(settings))
        demo = Demo(url_of(listener), data_dir, simulated=provider.base_url == SIMULATOR)
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
                key = self._provide_key(client)
                if key is not None:
                    sys.stdout.write(text(self._demo, key))
                    sys.stdout.flush()
        except CliError as fault:
            self._end_with(fault)
        except (OSError, UnicodeDecodeError, NoConnectionError, NoAnswerError) as error:
            self._end_with(CliError(f"the demo's key could not be created: {error}"))

    def _end_with(self, fault: CliError) -> None:
        if not self._over.is_set():  # otherwise the gateway was stopped in the meantime
            self.fault = fault
            os.kill(os.getpid(), signal.SIGTERM)

    def _provide_key(self, client: AdminClient) -> str | None:
        """Returns the key of the team "demo", or None if the demo was stopped.

        A busy disk can keep the store from answering for a second, also after the gateway was ready. Then it is asked
        again, with the same idempotency key, because the store may have made the key without an answer.
        """
        deadline_s, idempotency_key = time.monotonic() + READY_TIMEOUT_S, str(uuid.uuid4())
        while self._wait_until_ready(client):
            try:
                return _team_key(client, self._demo, idempotency_key)
            except AdminApiError as refused:
                if refused.code != "store_unavailable" or time.monotonic() > deadline_s:
                    raise
            self._over.wait(_RETRY_S)
        return None

    def _wait_until_ready(self, client: AdminClient) -> bool:
        for _ in range(round(READY_TIMEOUT_S / _POLL_S)):
            if client.is_ready():
                return True
            if self._over.wait(_POLL_S):
                return False
        raise CliError(f"the gateway was not ready within {READY_TIMEOUT_S:g} s; GET {self._demo.url}/readyz says why")


def _team_key(client: AdminClient, demo: Demo, idempotency_key: str) -> str:
    """Returns the key of the team "demo": the stored one if the gateway still accepts it, or a new one."""
    path = demo.data_dir / "demo-key"
    if path.exists():
        key = path.read_text(encoding="ascii").strip()
        with called(demo.url, key) as calls:
            if calls.request("GET", "/v1/key").status != HTTPStatus.UNAUTHORIZED:
                return key
        path.unlink()
    try:
        client.get(team_path(TEAM))
    except AdminApiError as refused:
        if refused.code != "team_not_found":
            raise
        client.post("/teams", {"name": TEAM, "credits_usd": CREDITS_USD, "limits": {"rpm": 60, "concurrency": 10}})
    created = client.post(f"{team_path(TEAM)}/keys", {"name": "demo"}, idempotency_key=idempotency_key)
    return secret_file(path, str(created["key"]))


def _configuration(host: str, port: int, data_dir: Path, provider: Provider) -> str:
    """Returns the demo's gateway.toml. Its paths are absolute, so that a copy of it can be served from anywhere."""
    is_simulator = provider.base_url == SIMULATOR
    answers = Answers(
        provider=provider,
        key=f"file:{data_dir / 'simulator-key'}" if is_simulator else f"env:{provider.key_variable}",
        store=EMBEDDED,
        admin_key=f"file:{data_dir / 'admin-key'}",
        data_dir=data_dir,
        host=host,
        port=port,
    )
    return HEADING + configuration(answers)
