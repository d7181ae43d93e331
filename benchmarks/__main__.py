"""`make bench`: everything in one run, with one table and one JSON file.

python -m benchmarks [--quick] [--only json,stream,...] [--json FILE] [--record]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks import history, rows, shard, sockets
from benchmarks.load import Troubled, chat_body, request_body
from benchmarks.machine import Cores, Missing, conditions
from benchmarks.rows import FULL, QUICK, Effort, Row
from benchmarks.servers import CHAT_PATH, Bench
from benchmarks.startup import start_up

Measure = Callable[[Bench, Effort], Row]

MEASUREMENTS: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        "stream": partial(
            rows.throughput,
            work="streams of 100 events, one write each",
            body=request_body("stream", stream=True),
            targets=("nginx", "naive", "ours"),
            goals=(("nginx", 1.0),),
        ),
        "batch": partial(
            rows.throughput,
            work="streams of 100 events, ten to a write",
            body=request_body("batch", stream=True),
            targets=("nginx", "naive", "ours"),
            goals=(),  # no target of its own: it shows what an event costs besides its write
        ),
        "json": partial(
            rows.throughput,
            work="JSON answers of 1.4 KB",
            body=request_body("json"),
            targets=("nginx", "bare", "naive", "ours"),
            goals=(("nginx", 0.25), ("bare", 0.5)),
        ),
        "chat-stream": partial(
            rows.throughput,
            work="chat completions, streams of 100 events, one write each",
            body=chat_body("stream", stream=True),
            targets=("nginx", "ours"),
            goals=(),
            path=CHAT_PATH,
        ),
        "chat-json": partial(
            rows.throughput,
            work="chat completions, JSON answers of 1.2 KB",
            body=chat_body("json"),
            targets=("nginx", "ours"),
            goals=(),
            path=CHAT_PATH,
        ),
        "tls-stream": partial(
            rows.throughput,
            work="streams of 100 events, TLS to the upstream",
            body=request_body("stream", stream=True),
            targets=("nginx-tls", "naive-tls", "ours-tls"),
            goals=(("nginx-tls", 1.0),),
        ),
        "tls-json": partial(
            rows.throughput,
            work="JSON answers of 1.4 KB, TLS to the upstream",
            body=request_body("json"),
            targets=("nginx-tls", "naive-tls", "ours-tls"),
            goals=(),
        ),
        "front": partial(
            rows.throughput,
            work="JSON answers of 1.4 KB, nginx with TLS in front of the gateway",
            body=request_body("json"),
            targets=("ours", "front"),
            goals=(),
        ),
        "latency": partial(rows.added_latency, stream=False),
        "first-event": partial(rows.added_latency, stream=True),
        "far-store": rows.far_store,
        "open": rows.open_streams,
        "sockets": sockets.idle_sockets,
        "turns": sockets.turns,
        "stages": rows.stages,
        "workers": rows.workers,
        "memory": rows.memory,
        "keys": rows.crowded_store,
        "shard": shard.capacity,
        "bodies": partial(
            rows.throughput,
            work="request bodies of 5 MB",
            body=request_body("json", padding_bytes=rows.BODY_BYTES),
            targets=("nginx", "ours"),
            goals=(("nginx", 0.5),),
            connections=8,
        ),
        "start": start_up,
    }
)
PEERS: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        "peers-json": partial(
            rows.throughput,
            work="chat completions, JSON answers of 1.2 KB",
            body=chat_body("json"),
            targets=("nginx", "litellm", "ours"),
            goals=(),
            path=CHAT_PATH,
        ),
        "peers-stream": partial(
            rows.throughput,
            work="chat completions, streams of 100 events, one write each",
            body=chat_body("stream", stream=True),
            targets=("nginx", "litellm", "ours"),
            goals=(),
            path=CHAT_PATH,
        ),
    }
)
"""Other gateways under the same load: `make bench-peers` installs them."""


def main() -> int:
    """Runs the requested rows. Returns 0 whether targets are met or not; the table says that."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="The gateway beside nginx, httpx and bare uvicorn.")
    parser.add_argument("--quick", action="store_true", help="about a minute; noisier, and without the long rows")
    parser.add_argument("--only", default="", metavar="ROWS", help=f"comma-separated: {', '.join(MEASUREMENTS)}")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/last.json"), metavar="FILE", help="where to write"
    )
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument("--record", action="store_true", help="add the ratios to history.json, and draw them")
    parser.add_argument("--peers", action="store_true", help="the rows with other gateways, and only these")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    measurements = PEERS if options.peers else MEASUREMENTS
    wanted = options.only.split(",") if options.only else list(measurements)
    if unknown := set(wanted) - set(measurements):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    started, where = time.time(), conditions()
    found, skipped = _measure({name: measurements[name] for name in wanted}, effort)
    where |= {"connections": str(rows.CONNECTIONS), "rounds": str(effort.rounds), "seconds": f"{effort.seconds}"}
    where["took"] = f"{time.time() - started:.0f} s"
    sys.stdout.write(render(list(found.values()), skipped, where))
    if options.record:
        date = time.strftime("%Y-%m-%d", time.gmtime(started))
        history.record({name: row.raw for name, row in found.items()}, where, date)
    result = {"conditions": where, "rows": [dataclasses.asdict(row) for row in found.values()], "skipped": skipped}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _measure(wanted: Mapping[str, Measure], effort: Effort) -> tuple[dict[str, Row], dict[str, str]]:
    found: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    with Bench(Cores.of_this_machine()) as bench:
        bench.start("bare", "naive", "ours", "nginx")
        for name, measure in wanted.items():
            sys.stderr.write(f"{name} ...\n")
            try:
                found[name] = measure(bench, effort)
            except (Missing, Troubled, TimeoutError) as reason:
                skipped[name] = str(reason)
            except Exception as error:  # noqa: BLE001 - the other rows are still useful
                traceback.print_exc()
                skipped[name] = repr(error)
    return found, skipped


def render(found: list[Row], skipped: Mapping[str, str], where: Mapping[str, str]) -> str:
    """The table, as Markdown."""
    verdicts = {True: "met", False: "MISSED", None: "-"}
    lines = ["", ", ".join(f"{name}: {value}" for name, value in where.items()), ""]
    lines += ["| work | measured | target | ours | |", "|---|---|---|---|---|"]
    for row in found:
        values = "<br>".join(f"{name}: {value}" for name, value in row.values.items())
        lines.append(f"| {row.work} | {values} | {row.target} | {row.result} | {verdicts[row.met]} |")
    lines += [f"| {name} | | | not measured: {reason} | - |" for name, reason in skipped.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
