"""What one shard of the store carries: a ledger admits and settles as fast as it can, without HTTP.

capacity(bench, effort)                            the row of the table
python -m benchmarks.shard URL SECONDS KEY...      the ledger's process; prints how many requests it made

A hundred teams are many small accounts in one shard, one team is all requests on one account. A stream costs the store
some more than these requests: it is remembered as soon as its response is named.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.machine import program
from benchmarks.rows import Effort, Row
from benchmarks.seed import fill
from benchmarks.servers import Bench
from gateway.billing.hold import FREE
from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import Settlement
from gateway.identity.api_keys import ApiKey, parse_api_key
from gateway.ledger.admissions import AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.refusals import Demand
from gateway.ledger.spool import Spool
from gateway.protocol.quantities import Usage
from gateway.store.store import Store, StoreSettings

TEAMS: Final = (1, 100)
_AT_ONCE: Final = 64
_DAY_S: Final = 86_400
_SPOOL_BYTES: Final = 1_000_000
_POLICY: Final = LedgerPolicy(
    hold_ttl_s=60.0,
    resolution_ttl_s=_DAY_S,
    journal_retention_s=_DAY_S,
    usage_retention_s=_DAY_S,
    idempotency_ttl_s=_DAY_S,
    on_failure="closed",
    lease_s=10.0,
    unreplicated_max=10_000,
    burst=1.0,
    max_end_users=1000,
)
_DEMAND: Final = Demand("bench/json", 2_000_000, 20, 200, FREE)
_USAGE: Final = Usage(20, 0, 60, 0, 80, None)


def capacity(bench: Bench, effort: Effort) -> Row:
    """Measures requests per second of one shard. The ledger has the server's core, and the store one of the others."""
    values: dict[str, str] = {}
    raw: dict[str, object] = {}
    for teams in TEAMS:
        directory = bench.directory / f"shard-{teams}"
        directory.mkdir()
        url, _ = bench.start_store(directory)
        keys = fill(url, teams)
        found = sorted(_sample(bench, url, keys, effort.seconds + 1) for _ in range(effort.rounds))
        rate, cpu_us, busy = (statistics.median(column) for column in zip(*found, strict=True))
        values[f"{teams} teams" if teams > 1 else "one team"] = (
            f"{rate:,.0f}/s, {cpu_us:,.0f} us each ({found[0][1]:,.0f} to {found[-1][1]:,.0f}), store {busy:.0%} busy"
        )
        raw[f"{teams}"] = {"rps": rate, "store_us": cpu_us, "busy": busy}
    return Row("one shard of the store: admission and settlement", values, "", "", None, raw)


def _sample(bench: Bench, url: str, keys: Sequence[str], seconds: float) -> tuple[float, float, float]:
    """Returns requests per second, the store's CPU time for each in us, and the share of its core that it used."""
    cores = ",".join(map(str, bench.cores.server))
    command = [program("taskset"), "-c", cores, sys.executable, "-m", "benchmarks.shard", url, str(seconds), *keys]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this package
    before_s, after_s, count, took_s = (float(word) for word in done.stdout.split()[-4:])
    used_s = after_s - before_s
    return count / took_s, 1e6 * used_s / count, used_s / took_s


async def _requests(ledger: Ledger, keys: list[ApiKey], until_s: float) -> int:
    count = 0
    while time.perf_counter() < until_s:
        key = keys[count % len(keys)]
        request = AdmissionRequest(f"req_{os.urandom(12).hex()}", key, ("bench/json", "bench/*", "*"), _DEMAND, None)
        hold = (await ledger.admit(request)).hold
        await ledger.settle(
            Settlement(hold, "settle", 620_000, _USAGE, "usage", Outcome.COMPLETED, "bench/json", "mock")
        )
        count += 1
    return count


async def _store_cpu_s(store: Store) -> float:
    """Returns the CPU time that the store has used so far, by its own account."""
    text: bytes = await store.run("INFO", "cpu")
    fields = dict(line.split(":") for line in text.decode().splitlines() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


async def _run(url: str, seconds: float, keys: list[ApiKey]) -> str:
    store = await Store.open(StoreSettings(url, timeout_s=30))
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(store, Spool(Path(directory), _SPOOL_BYTES, _DAY_S), _POLICY)
        await _requests(ledger, keys, time.perf_counter())
        before_s, began_s = await _store_cpu_s(store), time.perf_counter()
        counts = await asyncio.gather(
            *(_requests(ledger, keys[at:] + keys[:at], began_s + seconds) for at in _starts(len(keys)))
        )
        await ledger.flush()
        took_s, after_s = time.perf_counter() - began_s, await _store_cpu_s(store)
        await store.close()
    return f"{before_s} {after_s} {sum(counts)} {took_s}"


def _starts(keys: int) -> list[int]:
    """Returns with which key each task begins, so that they use different ones."""
    return [number * keys // _AT_ONCE for number in range(_AT_ONCE)]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = [parse_api_key(text) for text in sys.argv[3:]]
        sys.stdout.write(f"{runner.run(_run(sys.argv[1], float(sys.argv[2]), made))}\n")
