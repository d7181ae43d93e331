"""The measurements. Each compares targets within one run, in turns, and returns rows for the table.

throughput(...)      wrk, rounds in turn, medians
added_latency(...)   300 requests per second, each sent when it is due
open_streams(...)    thousands of streams at once
memory(...)          before and after many requests
far_store(...)       the same with a store that is a millisecond away
stages(...)          requests that end early against whole ones
workers(...)         two and four workers against one
crowded_store(...)   100,000 keys against one
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.client import hold_streams, latencies
from benchmarks.load import Sample, Troubled, request_body, run_wrk
from benchmarks.machine import Missing, raise_file_limit
from benchmarks.servers import RESPONSES_PATH, Bench, Target
from gateway.identity.api_keys import new_id, new_secret

CONNECTIONS: Final = 32
BODY_BYTES: Final = 5_000_000
_KILOBYTE: Final = 1024
_WARM_UP_S: Final = 3
_RPS: Final = 300
STORE_DELAY_MS: Final = 1.0
_LOAD_IS_THE_LIMIT: Final = 0.9
_ATTEMPTS: Final = 4  # on a machine that others use, the store may get no CPU for a second


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each measurement takes."""

    rounds: int
    seconds: int
    latency_s: float
    streams: int
    ticks: int
    requests: int
    teams: int
    keys: int


QUICK: Final = Effort(rounds=3, seconds=1, latency_s=3, streams=1000, ticks=8, requests=10_000, teams=0, keys=0)
FULL: Final = Effort(rounds=5, seconds=3, latency_s=20, streams=5000, ticks=16, requests=200_000, teams=10_000, keys=10)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `met` is None if there is no target, or if it cannot be judged here."""

    work: str
    values: dict[str, str]
    target: str = ""
    result: str = ""
    met: bool | None = None
    raw: dict[str, object] = field(default_factory=dict)


def throughput(
    bench: Bench,
    effort: Effort,
    work: str,
    body: bytes,
    targets: Sequence[str],
    goals: Sequence[tuple[str, float]],
    *,
    connections: int = CONNECTIONS,
    path: str = RESPONSES_PATH,
) -> Row:
    """Measures requests per second of each target. `goals`: (other target, how many times its speed is required).

    The last target is ours, with which the others are compared. The ratio of CPU times counts everything that answers:
    worker and store.
    """
    bench.start(*targets)
    samples = _rounds(bench, effort, body, [bench.targets[name] for name in targets], connections, path)
    rps = {name: statistics.median(one.rps for one in found) for name, found in samples.items()}
    cpu = {name: statistics.median(one.cpu_us for one in found) for name, found in samples.items()}
    store = {name: statistics.median(one.store_us for one in found) for name, found in samples.items()}
    ours, others = targets[-1], targets[:-1]
    ratios = {other: rps[ours] / rps[other] for other in others}
    times = {other: (cpu[ours] + store[ours]) / (cpu[other] + store[other]) for other in others}
    result = [f"{ratios[other]:.2f} x {other} (CPU {times[other]:.1f} x)" for other in others]
    return Row(
        work,
        {name: _described(found) for name, found in samples.items()},
        ", ".join(f">= {least} x {other}" for other, least in goals),
        ", ".join(result),
        all(ratios[other] >= least for other, least in goals) if goals else None,
        {"rps": rps, "cpu_us": cpu, "store_us": store, "ratios": ratios, "cpu_ratios": times},
    )


def _described(found: Sequence[Sample]) -> str:
    """One target's rounds: the medians, and in brackets how far the CPU times lie apart."""
    rps, busy = statistics.median(one.rps for one in found), statistics.median(one.busy for one in found)
    cpu = sorted(one.cpu_us for one in found)
    text = f"{rps:,.0f}/s  {statistics.median(cpu):,.0f} us ({cpu[0]:,.0f} to {cpu[-1]:,.0f})"
    if store := statistics.median(one.store_us for one in found):
        text += f"  store {store:,.0f} us"
    load = statistics.median(one.load_busy for one in found)
    return f"{text}  {busy:.0%} busy, load {load:.0%}" + (" (the limit)" if load > _LOAD_IS_THE_LIMIT else "")


def _rounds(
    bench: Bench,
    effort: Effort,
    body: bytes,
    targets: Sequence[Target],
    connections: int,
    path: str = RESPONSES_PATH,
) -> dict[str, list[Sample]]:
    for target in targets:
        _run(bench, target, body, _WARM_UP_S, connections, path)
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for number in range(effort.rounds):
        for target in targets if number % 2 == 0 else reversed(targets):
            samples[target.name].append(_run(bench, target, body, effort.seconds, connections, path))
    return samples


def _run(
    bench: Bench, target: Target, body: bytes, seconds: int, connections: int, path: str = RESPONSES_PATH
) -> Sample:
    """Runs wrk until a run has no errors. Raises Troubled if there always are some."""
    attempts = 0
    while True:
        try:
            return run_wrk(
                target,
                body,
                seconds=seconds,
                connections=connections,
                cores=bench.cores,
                directory=bench.directory,
                beside=bench.targets["direct"].process,
                path=path,
            )
        except Troubled as trouble:
            attempts += 1
            if attempts == _ATTEMPTS:
                raise
            sys.stderr.write(f"  again: {trouble}\n")


def added_latency(bench: Bench, effort: Effort, *, stream: bool) -> Row:
    """Measures what the gateway adds to the time of an answer, or of a first event, at a fixed rate."""
    names = ["direct", "nginx", "ours"]
    found = latencies([bench.targets[name] for name in names], stream=stream, rps=_RPS, seconds=effort.latency_s)
    ms = {name: [1000 * one for one in values] for name, values in found.items()}
    half = {name: statistics.median(values) for name, values in ms.items()}
    p99 = {name: statistics.quantiles(values, n=100)[98] for name, values in ms.items()}
    median, tail = half["ours"] - half["direct"], p99["ours"] - p99["direct"]
    most_median, most_tail = (0.4, 0.8) if stream else (0.3, 0.8)
    return Row(
        f"time to first event, {_RPS}/s" if stream else f"answer time, {_RPS}/s",
        {name: f"{half[name]:.2f} / {p99[name]:.2f} ms" for name in names},
        f"<= {most_median} / <= {most_tail} ms added",
        f"{median:.2f} / {tail:.2f} ms",
        median <= most_median and tail <= most_tail,
        {"median_ms": half, "p99_ms": p99},
    )


def open_streams(bench: Bench, effort: Effort) -> Row:
    """Measures many open streams on one worker, with one event per second each."""
    raise_file_limit()
    values: dict[str, str] = {}
    raw: dict[str, object] = {}
    met = True
    for name in ("nginx", "ours"):
        # one of its own, because memory that served other rows would be used again
        target = bench.targets[name] if name == "nginx" else bench.start_gateway("open")
        before = target.process.rss_bytes()
        held = hold_streams(target, effort.streams, effort.ticks)
        each = (held.rss_bytes - before) / effort.streams / _KILOBYTE
        late = statistics.quantiles(held.late_ms, n=1000)
        p50, p999, worst = late[499], late[998], max(held.late_ms)
        values[name] = (
            f"open in {held.open_s:.1f} s  {each:.1f} KiB each  late {p50:.1f} / {p999:.0f} / {worst:.0f} ms  "
            f"{held.cpu_share:.0%} busy"
        )
        raw[name] = {
            "open_s": held.open_s,
            "kib_each": each,
            "late_p50_ms": p50,
            "late_p999_ms": p999,
            "late_max_ms": worst,
            "events": held.events,
            "cpu_share": held.cpu_share,
        }
        if name == "ours":
            met = held.open_s <= 10 and each <= 30 and worst <= 100  # noqa: PLR2004 - the targets of the table
    work = f"{effort.streams:,} open streams, {effort.streams:,} events/s"
    return Row(work, values, "<= 10 s, <= 30 KiB, <= 100 ms late", values["ours"], met, raw)


def far_store(bench: Bench, effort: Effort) -> Row:
    """Measures what the gateway adds to an answer's time with its store here, and with one a round trip away."""
    if "far" not in bench.targets:
        bench.start_gateway("far", store_delay_ms=STORE_DELAY_MS)
    targets = [bench.targets[name] for name in ("direct", "ours", "far")]
    values: dict[str, str] = {}
    raw: dict[str, object] = {}
    for stream, what in ((False, "answer"), (True, "first event")):
        found = latencies(targets, stream=stream, rps=_RPS, seconds=effort.latency_s)
        half = {name: 1000 * statistics.median(times) for name, times in found.items()}
        near_ms, far_ms = half["ours"] - half["direct"], half["far"] - half["direct"]
        values[what] = f"{near_ms:.2f} ms added, with the store {STORE_DELAY_MS:g} ms away {far_ms:.2f} ms"
        raw[what] = half
    return Row(f"a store that is {STORE_DELAY_MS:g} ms away, {_RPS}/s", values, "", "", None, raw)


def stages(bench: Bench, effort: Effort) -> Row:
    """Measures the CPU time of requests by how far they get: a malformed key, an unknown one, a whole answer."""
    ours = bench.targets["ours"]
    unknown, _ = new_secret(new_id(), new_id())
    targets = [
        bench.targets["bare"],
        replace(ours, name="malformed key", key="sk-gw-none", is_refused=True),
        replace(ours, name="unknown key", key=unknown, is_refused=True),
        ours,
    ]
    samples = _rounds(bench, effort, request_body("json"), targets, CONNECTIONS)
    cpu = {name: statistics.median(one.cpu_us for one in found) for name, found in samples.items()}
    store = {name: statistics.median(one.store_us for one in found) for name, found in samples.items()}
    return Row(
        "how far a request gets",
        {name: _described(found) for name, found in samples.items()},
        raw={"cpu_us": cpu, "store_us": store},
    )


def workers(bench: Bench, effort: Effort) -> Row:
    """Compares two and four workers with one. The ratio is meaningful only if the load is not the limit."""
    body = request_body("json")
    numbers = {"ours": 1, "two": 2, "four": 4}
    for name, number in numbers.items():
        if name not in bench.targets:
            bench.start_gateway(name, workers=number)
    samples = _rounds(bench, effort, body, [bench.targets[name] for name in numbers], CONNECTIONS)
    rps = {name: statistics.median(one.rps for one in found) for name, found in samples.items()}
    cpu = {name: statistics.median(one.cpu_us for one in found) for name, found in samples.items()}
    ratio, enough = rps["two"] / rps["ours"], len(bench.cores.load) > 1
    return Row(
        "one, two and four workers",
        {f"{numbers[name]}": _described(found) for name, found in samples.items()},
        "two >= 1.8 x one",
        f"{ratio:.2f} x one" + ("" if enough else "; the load shares a core, so this cannot show it"),
        ratio >= 1.8 if enough else None,  # noqa: PLR2004 - the target of the table
        {"rps": rps, "cpu_us": cpu},
    )


def memory(bench: Bench, effort: Effort) -> Row:
    """Measures resident memory after a quarter of the requests, and after all of them."""
    target, body = bench.targets["ours"], request_body("json")
    sizes: list[float] = []
    done = 0.0
    started = time.monotonic()
    while done < effort.requests:
        sample = _run(bench, target, body, effort.seconds, CONNECTIONS)
        done += sample.rps * effort.seconds
        sizes.append(target.process.rss_bytes() / _KILOBYTE**2)
        if time.monotonic() - started > 600:  # noqa: PLR2004 - ten minutes is enough for any machine
            break
    warm = sizes[len(sizes) // 4]
    growth = sizes[-1] - warm
    return Row(
        f"memory after {done:,.0f} requests",
        {"ours": f"{warm:.1f} MiB warm, {sizes[-1]:.1f} MiB at the end"},
        "flat",
        f"{growth:+.1f} MiB",
        growth < max(2.0, warm * 0.03),
        {"mib": sizes},
    )


def crowded_store(bench: Bench, effort: Effort) -> Row:
    """Compares a store with many teams and keys with one that has one of each."""
    if not effort.teams:
        raise Missing("only in the full run")
    bench.start_gateway("crowded", teams=effort.teams, keys=effort.keys)
    body = request_body("json")
    samples = _rounds(bench, effort, body, [bench.targets["ours"], bench.targets["crowded"]], CONNECTIONS)
    rps = {name: statistics.median(one.rps for one in found) for name, found in samples.items()}
    ratio = rps["crowded"] / rps["ours"]
    return Row(
        f"{effort.teams * effort.keys:,} keys, {effort.teams:,} teams in the store",
        {"ours": f"one {rps['ours']:,.0f}/s, many {rps['crowded']:,.0f}/s"},
        "same speed",
        f"{ratio:.2f} x one",
        ratio >= 0.95,  # noqa: PLR2004 - the tolerance for noise
        {"rps": rps},
    )
