"""Load by wrk: requests per second, and the server's CPU time per request."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import Cores, Process, program
from benchmarks.servers import RESPONSES_PATH, Target

_SCRIPT: Final = """\
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
"""


class Troubled(Exception):
    """A run in which answers were not 2xx or connections broke. It is not a measurement."""


_RATE: Final = re.compile(r"Requests/sec:\s+([\d.]+)")
_COUNT: Final = re.compile(r"(\d+) requests in")
_TROUBLE: Final = re.compile(r"(?:Non-2xx|Socket errors).*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk against one target."""

    rps: float
    cpu_us: float  # of the server, per request
    busy: float  # the share of its core that the server used
    store_us: float = 0.0  # of its store, per request
    load_busy: float = 0.0  # the share of a core that the load, the mock upstream and the store used together


def chat_body(model: str, *, stream: bool = False) -> bytes:
    """Returns a request body for chat completions."""
    message = {"role": "user", "content": "Tell me in a few words what a gateway is for."}
    fields = {"model": f"bench/{model}", "stream": stream, "max_completion_tokens": 200, "messages": [message]}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields, separators=(",", ":")).encode()


def request_body(model: str, *, stream: bool = False, padding_bytes: int = 0, max_output_tokens: int = 200) -> bytes:
    """Returns a request body. `padding_bytes` of base64 stand for an image."""
    content: list[dict[str, str]] = [{"type": "input_text", "text": "Tell me in a few words what a gateway is for."}]
    if padding_bytes:
        image = "data:image/png;base64," + "QUJD" * (padding_bytes // 4)
        content.append({"type": "input_image", "image_url": image})
    fields = {
        "model": f"bench/{model}",
        "stream": stream,
        "max_output_tokens": max_output_tokens,
        "input": [{"type": "message", "role": "user", "content": content}],
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def run_wrk(
    target: Target,
    body: bytes,
    *,
    seconds: int,
    connections: int,
    cores: Cores,
    directory: Path,
    beside: Process,
    path: str = RESPONSES_PATH,
) -> Sample:
    """One run. `beside`: what else runs on the load's cores. Raises Troubled."""
    body_file, script = directory / "body.json", directory / "post.lua"
    body_file.write_bytes(body)
    script.write_text(_SCRIPT.format(body=body_file, key=target.key))
    pinned = [program("taskset"), "-c", ",".join(map(str, cores.load)), program("wrk")]
    command = [
        *pinned,
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "20s",
        "-s",
        str(script),
        target.url(path),
    ]
    cpu_before, store_before = target.process.cpu_s(), _cpu_s(target.store)
    load_before = _load_cpu_s(target, beside)
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - wrk, by its full path
    cpu_s, store_s = target.process.cpu_s() - cpu_before, _cpu_s(target.store) - store_before
    load_s = _load_cpu_s(target, beside) - load_before
    rate, count = _RATE.search(result.stdout), _COUNT.search(result.stdout)
    if rate is None or count is None or count[1] == "0":
        raise Troubled(f"{target.name}: wrk said {result.stdout!r}")
    trouble = _TROUBLE.search(result.stdout)
    expected = f"Non-2xx or 3xx responses: {count[1]}" if target.is_refused else ""
    if (trouble[0] if trouble else "") != expected:
        raise Troubled(f"{target.name}: {trouble[0] if trouble else 'it was not refused'}")
    rps, requests = float(rate[1]), int(count[1])
    each_us = 1e6 / requests
    return Sample(
        rps, cpu_s * each_us, cpu_s * rps / requests, store_s * each_us, load_s * rps / requests / len(cores.load)
    )


def _cpu_s(process: Process | None) -> float:
    return 0.0 if process is None else process.cpu_s()


def _load_cpu_s(target: Target, beside: Process) -> float:
    """CPU time of what shares the load's cores: wrk (all children that have ended), the mock upstream, the store."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + beside.cpu_s() + _cpu_s(target.store)
