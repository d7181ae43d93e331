"""The compose stack on a real Docker Engine, under its own project name, and load on it.

    with compose_stack(directory) as stack:
        stack.type(line)                     types a line of the README, as a person at a terminal does
        stack.compose("up", "-d")            docker compose, or docker-compose 1.29 where the plugin is missing
        stack.wait_healthy("gateway")
        stack.docker("kill", stack.container("gateway"))
        with Load(url, key) as load: ...     complete answers and failures, by the official SDK

Images that no registry provides are built by deploy/local-images/build.sh, unless BASE_IMAGE, STORE_IMAGE, PROXY_IMAGE
and PROMETHEUS_IMAGE name others. When the `with` block ends, only the images of the project are left.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shutil
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import openai

from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

ROOT: Final = Path(__file__).parents[2]
BUILD_IMAGES: Final = ROOT / "deploy" / "local-images" / "build.sh"
UPSTREAM_KEY: Final = "upstream-key-of-the-compose-test"
KINDS: Final = ("container", "volume", "network")
INPUT_NANO_USD: Final = 5_000  # of one token, by the prices of deploy/compose/gateway.toml
OUTPUT_NANO_USD: Final = 25_000
_COMMAND_TIMEOUT_S: Final = 600


def engine_answers() -> bool:
    """Whether there is a Docker Engine that this user may talk to, and a compose for it."""
    if shutil.which("docker") is None or _compose_command() is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30).returncode == 0


def _compose_command() -> list[str] | None:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


class Stack:
    """One compose project. Mutable: `environ`, which a person would change in .env."""

    def __init__(self, directory: Path) -> None:
        self.project = f"gwtest{uuid.uuid4().hex[:8]}"
        self.secrets = directory / "secrets"
        self.http_port, self.https_port, port = free_port(), free_port(), free_port()
        self.prometheus_port, admin_port = free_port(), free_port()
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.url = f"http://127.0.0.1:{port}"
        self.environ = {
            **os.environ,
            **_images(),
            "PATH": f"{_docker_with_compose(directory)}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "simulator",
            "GATEWAY_IMAGE": f"{self.project}:latest",
            "GATEWAY_PORT": str(port),
            "ADMIN_PORT": str(admin_port),
            "FRONT_SUBNET": "172.31.251.0/24",  # not that of a stack that runs here
            "FRONT_RANGE": "172.31.251.128/25",
            "PROXY_ADDRESS": "172.31.251.10",
            "GATEWAY_OPEN_FILES": str(min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
            "HTTP_PORT": str(self.http_port),
            "HTTPS_PORT": str(self.https_port),
            "PIP_NO_INDEX": "1",
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "SECRETS_DIR": str(self.secrets),
            "SIRAYA_API_KEY": UPSTREAM_KEY,
            "UPSTREAM_BASE_URL": "http://simulator:8081/v1",
        }

    def type(self, line: str) -> str:
        """Runs a line in a shell on a terminal, and returns the terminal's output. Fails the test if the line fails."""
        terminal, child_side = pty.openpty()
        shown = bytearray()
        with subprocess.Popen(
            ["bash", "-c", line], cwd=ROOT, env=self.environ, stdin=child_side, stdout=child_side, stderr=child_side
        ) as process:
            os.close(child_side)
            with contextlib.suppress(OSError):  # EIO: the last process that had the terminal open has ended
                while data := os.read(terminal, 4096):
                    shown += data
            os.close(terminal)
        text = shown.decode(errors="replace").replace("\r", "")
        assert process.returncode == 0, f"{line}\n{text}"
        return text

    def compose(self, *arguments: str, **environ: str) -> str:
        """`docker compose ...`, with variables besides its own; fails the test if the command fails."""
        return self._run("docker", "compose", *arguments, **environ)

    def docker(self, *arguments: str) -> str:
        """`docker ...`; fails the test if the command fails."""
        return self._run("docker", *arguments)

    def attempt(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in a container, and gives how it went."""
        return subprocess.run(
            ["docker", "exec", container, *command], capture_output=True, text=True, check=False, timeout=60
        )

    def _run(self, *command: str, **environ: str) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def container(self, service: str) -> str:
        """A service's container id; it may be stopped."""
        return self._listed("container", f"label=com.docker.compose.service={service}")[0]

    def _listed(self, kind: str, *filters: str) -> list[str]:
        words = ["docker", kind, "ls", "--quiet", *(["--all"] if kind == "container" else [])]
        for one in (f"label=com.docker.compose.project={self.project}", *filters):
            words += ["--filter", one]
        return self._run(*words).split()

    def left_behind(self) -> dict[str, list[str]]:
        """Returns what is left of this project."""
        return {kind: found for kind in KINDS if (found := self._listed(kind))}

    def state(self, service: str) -> dict[str, Any]:
        """Docker's `State` of a service's container."""
        found: dict[str, Any] = json.loads(
            self.docker("inspect", "--format", "{{json .State}}", self.container(service))
        )
        return found

    def wait_healthy(self, *services: str, timeout_s: float = 90) -> None:
        for service in services:
            wait_until_sync(partial(self._is_healthy, service), timeout_s=timeout_s, what=f"{service} is healthy")

    def _is_healthy(self, service: str) -> bool:
        time.sleep(0.2)  # each look starts a process
        state = self.state(service)
        return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")

    def admin(self, path: str) -> dict[str, Any]:
        """GET on the admin API."""
        key = (self.secrets / "admin_key").read_text().strip()
        answer = httpx.get(f"{self.admin_url}/admin/v1{path}", headers={"authorization": f"Bearer {key}"}, timeout=20)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def gateway_command(self, *arguments: str) -> dict[str, Any]:
        """`gateway ... --json` in the gateway's container."""
        found: dict[str, Any] = json.loads(
            self.docker("exec", self.container("gateway"), "gateway", *arguments, "--json")
        )
        return found

    def entries(self, team: str) -> dict[str, list[dict[str, Any]]]:
        """A team's journal, by the request that an entry belongs to."""
        found: dict[str, list[dict[str, Any]]] = {}
        after = ""
        while True:
            page = self.admin(f"/teams/{team}/journal?limit=1000{after}")
            for entry in page["data"]:
                found.setdefault(entry["request_id"] or "", []).append(entry)
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"

    def layers(self, image: str) -> list[str]:
        """The digests of an image's layers."""
        found: list[str] = json.loads(self.docker("inspect", "--format", "{{json .RootFS.Layers}}", image))
        return found

    def logs(self) -> str:
        """What all containers have written."""
        return self.compose("logs", "--no-color", "--tail", "200")


def _images() -> dict[str, str]:
    """Returns the images of the stack: those in the environment, or built here."""
    names = ("BASE_IMAGE", "STORE_IMAGE", "PROXY_IMAGE", "PROMETHEUS_IMAGE")
    if all(os.environ.get(name) for name in names):
        return {name: os.environ[name] for name in names}
    made = subprocess.run([BUILD_IMAGES], stdout=subprocess.PIPE, text=True, check=True, timeout=_COMMAND_TIMEOUT_S)
    return dict(line.split("=", 1) for line in made.stdout.splitlines())


def _docker_with_compose(directory: Path) -> Path:
    """Returns a directory for PATH in which `docker compose` also works with docker-compose 1.29."""
    command = _compose_command()
    assert command is not None
    programs = directory / "bin"
    programs.mkdir()
    docker = shutil.which("docker")
    shim = programs / "docker"
    if command == ["docker-compose"]:
        shim.write_text(
            f'#!/bin/sh\n[ "$1" = compose ] || exec {docker} "$@"\nshift\nexec docker-compose "$@"\n', encoding="utf-8"
        )
        shim.chmod(0o755)
    return programs


@contextlib.contextmanager
def compose_stack(directory: Path) -> Iterator[Stack]:
    """Yields a project in which nothing runs yet. It is taken down at the end."""
    stack = Stack(directory)
    try:
        yield stack
    finally:
        stack.environ["COMPOSE_PROFILES"] = "simulator,tls,scale,observability"
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        subprocess.run(["docker", "image", "rm", stack.environ["GATEWAY_IMAGE"]], capture_output=True, check=False)


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer and its cost."""

    request_id: str
    cost_nano_usd: int


@dataclass
class Load:
    """Clients that send requests without pause until the `with` block ends. Mutable: `answers`, `failures`."""

    url: str
    key: str
    clients: int = 2
    ca_file: Path | None = None
    pause_s: float = 0.02
    answers: list[Answered] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(self.clients):
            thread = threading.Thread(target=self._ask_on, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
        self.wait_for(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a client hangs"

    def wait_for(self, more: int, *, timeout_s: float = 60) -> None:
        """Waits for a number of further complete answers."""
        target = len(self.answers) + more
        wait_until_sync(lambda: len(self.answers) >= target, timeout_s=timeout_s, what=f"{more} more answers")

    def _ask_on(self, number: int) -> None:
        with sdk(self.url, self.key, ca_file=self.ca_file) as client:
            while not self._over.wait(self.pause_s):
                try:
                    self.answers.append(stream_once(client) if number % 2 else ask_once(client))
                except (openai.OpenAIError, AssertionError, httpx.HTTPError) as error:
                    self.failures.append(told(error))
                    self._over.wait(0.1)


def told(error: Exception) -> str:
    """Returns what a client was told, with the answer's headers: whether a gateway or a proxy answered."""
    if isinstance(error, openai.APIStatusError):
        return f"{error.status_code} {error.code} {error.response.text[:200]} {dict(error.response.headers)}"
    return f"{type(error).__name__}: {error}"


def trust(ca_file: Path) -> ssl.SSLContext:
    """Returns a TLS context that trusts one authority."""
    return ssl.create_default_context(cafile=str(ca_file))


def sdk(url: str, key: str, *, ca_file: Path | None = None) -> openai.OpenAI:
    """Returns the official SDK. It does not retry, because one failed request is one too many."""
    http = openai.DefaultHttpxClient(verify=trust(ca_file) if ca_file else True, timeout=60, trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http)


def ask_once(client: openai.OpenAI, model: str = "sim/tokens-20") -> Answered:
    """A plain request."""
    answer = client.responses.create(model=model, input="hello")
    return answered(answer, str(answer._request_id))  # noqa: SLF001 - the SDK documents it by this name


def stream_once(client: openai.OpenAI, model: str = "sim/tokens-20") -> Answered:
    """Reads a stream to its end. Raises AssertionError if it has none."""
    with client.responses.create(model=model, input="hello", stream=True) as events:
        request_id = events.response.headers["x-request-id"]
        last: Any = None
        for event in events:
            last = event
    ending = last.type if last else "nothing"
    size = events.response.num_bytes_downloaded
    assert ending == "response.completed", f"{request_id} ended with {ending}, {size} bytes, {events.response.headers}"
    return answered(last.response, request_id)


def answered(response: Any, request_id: str) -> Answered:
    """Returns the cost by the stack's prices."""
    usage = response.usage
    return Answered(request_id, usage.input_tokens * INPUT_NANO_USD + usage.output_tokens * OUTPUT_NANO_USD)
