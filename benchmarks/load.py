"""Load by wrk: requests per second, and the server's CPU time per request."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import Cores, program
from benchmarks.servers import Target

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


def run_wrk(target: Target, body: bytes, *, seconds: int, connections: int, cores: Cores, directory: Path) -> Sample:
    """One run. Raises Troubled."""
    body_file, script = directory / "body.json", directory / "post.lua"
    body_file.write_bytes(body)
    script.write_text(_SCRIPT.format(body=body_file, key=target.key))
    pinned = [program("taskset"), "-c", ",".join(map(str, cores.load)), program("wrk")]
    command = [*pinned, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script), target.url]
    cpu_before = target.process.cpu_s()
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - wrk, by its full path
    cpu_s = target.process.cpu_s() - cpu_before
    if trouble := _TROUBLE.search(result.stdout):
        raise Troubled(f"{target.name}: {trouble[0]}")
    rate, count = _RATE.search(result.stdout), _COUNT.search(result.stdout)
    if rate is None or count is None or count[1] == "0":
        raise Troubled(f"{target.name}: wrk said {result.stdout!r}")
    rps, requests = float(rate[1]), int(count[1])
    return Sample(rps, cpu_s / requests * 1e6, cpu_s * rps / requests)
