"""`make bench`: everything in one run, with one table and one JSON file.

python -m benchmarks [--quick] [--only json,stream,...] [--json FILE]
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

from benchmarks import rows, sockets
from benchmarks.load import Troubled, request_body
from benchmarks.machine import Cores, Missing, conditions
from benchmarks.rows import FULL, QUICK, Effort, Row
from benchmarks.servers import Bench
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
        "latency": partial(rows.added_latency, stream=False),
        "first-event": partial(rows.added_latency, stream=True),
        "open": rows.open_streams,
        "sockets": sockets.idle_sockets,
        "turns": sockets.turns,
        "workers": rows.workers,
        "memory": rows.memory,
        "keys": rows.crowded_store,
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


def main() -> int:
    """Runs the requested rows. Returns 0 whether targets are met or not; the table says that."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="The gateway beside nginx, httpx and bare uvicorn.")
    parser.add_argument("--quick", action="store_true", help="about a minute; noisier, and without the long rows")
    parser.add_argument("--only", default="", metavar="ROWS", help=f"comma-separated: {', '.join(MEASUREMENTS)}")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/last.json"), metavar="FILE", help="where to write"
    )
    parser.add_argument("--rounds", type=int, help="of each comparison")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    wanted = options.only.split(",") if options.only else list(MEASUREMENTS)
    if unknown := set(wanted) - set(MEASUREMENTS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    started, where = time.time(), conditions()
    found, skipped = _measure(wanted, effort)
    where |= {"connections": str(rows.CONNECTIONS), "rounds": str(effort.rounds), "seconds": f"{effort.seconds}"}
    where["took"] = f"{time.time() - started:.0f} s"
    sys.stdout.write(render(found, skipped, where))
    result = {"conditions": where, "rows": [dataclasses.asdict(row) for row in found], "skipped": skipped}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _measure(wanted: list[str], effort: Effort) -> tuple[list[Row], dict[str, str]]:
    found: list[Row] = []
    skipped: dict[str, str] = {}
    with Bench(Cores.of_this_machine()) as bench:
        bench.start("bare", "naive", "ours", "nginx")
        for name in wanted:
            sys.stderr.write(f"{name} ...\n")
            try:
                found.append(MEASUREMENTS[name](bench, effort))
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
