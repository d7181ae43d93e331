"""`python -m benchmarks.lag [--megabytes 33]`: for how long a hostile body keeps the event loop from all others.

Each body goes to the gateway as a dry run and for real, while nobody else asks for anything. What is printed is the
longest time for which the loop served nobody, by a probe on the loop itself (`probed.py`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import mmap
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.machine import Cores, Missing
from benchmarks.probed import SIZE
from benchmarks.servers import Bench, Target

_TEXT_BYTES: Final = 8_000_000  # just below server.max_text_bytes
_VALUES: Final = 199_000  # just below server.max_json_values
_REPEATS: Final = 3


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies of up to `size` bytes, each made to cost as much as it can."""

    def array(piece: bytes, most: int) -> bytes:
        return b'{"model":"m","input":[%b0]}' % (piece * (most // len(piece)))

    def text(piece: bytes, most: int) -> bytes:
        return b'{"model":"m","input":"%b"}' % (piece * (most // len(piece)))

    image = b"data:image/png;base64,iVBORw0KGgo" + b"A" * (size - 1000)
    members = b",".join(b'"k%06d":%d' % (number, number) for number in range(_VALUES))
    yield "lists, refused", array(b"[[]],", size)
    yield "lists", array(b"[],", 3 * (_VALUES // 2))
    yield "marks of attachments", array(b'"data:;base64,",', size)
    yield "one image", b'{"model":"m","input":[{"type":"input_image","image_url":"%b"}]}' % image
    yield "text", text(b"hello wor ", _TEXT_BYTES)
    yield "line ends", text(b"\\n", _TEXT_BYTES)
    yield "escapes", text(b"\\u0041", _TEXT_BYTES)
    yield "half surrogates", text(b"\\ud800", _TEXT_BYTES)
    yield "quotes", text(b'\\"', _TEXT_BYTES)
    yield "names in a text", text(b'\\"model\\":', _TEXT_BYTES)
    yield "strings", array(b'"' + b"x" * 36 + b'",', 39 * _VALUES)
    yield "members", b'{"model":"m","input":"","metadata":{%b}}' % members
    yield "numbers", array(b"0.123456789012345678,", 21 * _VALUES)
    yield "nesting", b'{"model":"m","input":%b%b,"user":"%b"}' % (b"[" * 900, b"]" * 900, b"x" * 1_000_000)
    yield "members that carry files", b'{"model":"m","input":[{%b"a":1}]}' % (b'"data":"x",' * (_VALUES - 10))
    yield "spaces", b'{"model":"m","input":""%b}' % (b" " * _TEXT_BYTES)


def ask(target: Target, body: bytes, *, dry: bool) -> int:
    """Sends one request and reads its answer; gives the status."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    if dry:
        headers["x-gateway-dry-run"] = "true"
    try:
        connection.request("POST", "/v1/responses", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def measure(target: Target, gaps: mmap.mmap, body: bytes, *, dry: bool) -> tuple[int, float, float]:
    """The status, how long the answer took, and the longest gap of the loop, both in ms: the best of a few."""
    best: tuple[int, float, float] = (0, 0.0, float("inf"))
    for _ in range(_REPEATS):
        time.sleep(0.1)
        gaps[:] = struct.pack("q", 0)
        began_s = time.perf_counter()
        status = ask(target, body, dry=dry)
        took_ms = 1000 * (time.perf_counter() - began_s)
        time.sleep(0.02)
        gap_ms = struct.unpack("q", gaps[:])[0] / 1e6
        if gap_ms < best[2]:
            best = status, took_ms, gap_ms
    return best


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lag")
    parser.add_argument("--megabytes", type=int, default=33)
    size = parser.parse_args().megabytes * 1_000_000
    try:
        with Bench(Cores.of_this_machine()) as bench:
            target, path = bench.start_probed_gateway()
            with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as gaps:
                found = {}
                for name, body in bodies(size):
                    rows = [measure(target, gaps, body, dry=dry) for dry in (True, False)]
                    found[name] = rows
                    sys.stdout.write(f"| {name} | {len(body) / 1e6:.1f} MB")
                    for status, took_ms, gap_ms in rows:
                        sys.stdout.write(f" | {status} in {took_ms:,.0f} ms, {gap_ms:.1f} ms")
                    sys.stdout.write(" |\n")
                    sys.stdout.flush()
    except Missing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    sys.stderr.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
