"""`gateway doctor`: checks that a staging gateway keeps its promises under parallel requests, kills and pauses.

| check               | what the doctor does                          | what must be true afterwards               |
|---------------------|-----------------------------------------------|--------------------------------------------|
| concurrency         | sends many requests with a key with 3 slots   | no more than 3 ran at the same time        |
| requests per minute | sends many requests with a key with a rate    | no more were served than the rate permits  |
| budget              | sends many requests with a key with a budget  | no more was charged than the budget allows |
| client leaves       | leaves in the middle of a stream              | the slot and the hold are free again       |
| rotation under load | replaces a key's secret while requests run    | none is refused; the old secret ends       |
| SIGKILL             | kills a worker with open streams (`--kill`)   | what it held is free again                 |
| store pause         | stops the store for a while (`--pause-store`) | requests fail soon; later ones are served  |
| ledger              | verifies the ledger of everything above       | each answer is posted once; balances agree |

It works through the admin API, with a team of its own that it deletes at the end. The two checks that act on processes
run only if the process ids are given.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

from gateway.cli import options, output
from gateway.cli.client import AdminClient
from gateway.cli.errors import CliError
from gateway.cli.signatures import option
from gateway.cli.staging_gateway import Reply, StagingGateway, max_overlap

_SLOTS: Final = 3
_REQUESTS_PER_MINUTE: Final = 5
_MINUTE_S: Final = 60
_STREAMS: Final = 4
_SOON_S: Final = 10.0
_UNAUTHORIZED: Final = 401


class Finding(NamedTuple):
    """The result of a check. `passed` is None if it was skipped."""

    check: str
    passed: bool | None
    detail: str


class Processes(NamedTuple):
    """The local processes that may be acted on. A process id of 0 means none."""

    kill: int = 0
    pause_store: int = 0
    pause_s: float = 5.0


def doctor(  # noqa: PLR0913 - the command's flags
    *,
    model: Annotated[str, option("A model whose answers take some seconds; each check sends requests to it.")],
    requests: Annotated[int, option("How many requests are sent at the same time.", minimum=4, maximum=500)] = 20,
    max_output_tokens: Annotated[int, option("The longest answer.", minimum=16)] = 256,
    credits_usd: Annotated[str, option("The credits of the doctor's team, in USD.", "--credits")] = "1.00",
    kill: Annotated[int, option("The process id of a gateway or worker to be killed.", minimum=0)] = 0,
    pause_store: Annotated[int, option("The process id of the store to be paused.", minimum=0)] = 0,
    pause_s: Annotated[float, option("For how many seconds the store is paused.", minimum=0.1, maximum=300)] = 5.0,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Examine a STAGING gateway: limits, clients that leave, rotation, and optionally kills and pauses."""
    with AdminClient.from_environment() as admin:
        options.confirm(f"Send requests for up to {credits_usd} USD through {admin.url}?", yes=yes)
        staging = StagingGateway(admin, model, requests, max_output_tokens, credits_usd)
        try:
            findings = examine(staging, Processes(kill, pause_store, pause_s))
        finally:
            staging.delete_team()
    if as_json:
        output.as_json([finding._asdict() for finding in findings])
    else:
        rows = [(one.check, _RESULTS[one.passed], one.detail) for one in findings]
        output.table(("CHECK", "PASSED", "DETAIL"), rows, empty="")
    if any(one.passed is False for one in findings):
        raise CliError("not every check passed")


_RESULTS: Final[Mapping[bool | None, str]] = MappingProxyType({True: "yes", False: "NO", None: "skipped"})


def examine(staging: StagingGateway, processes: Processes) -> list[Finding]:
    """Runs every check, also after one has failed."""
    first = staging.send(staging.create_key(), stream=False)
    if not first.is_success:
        raise CliError(f"a first request was not served: {first.status} {first.code}")
    checks: Sequence[tuple[str, Callable[[], tuple[bool | None, str]]]] = (
        ("concurrency", lambda: _concurrency(staging)),
        ("requests per minute", lambda: _rate(staging)),
        ("budget", lambda: _budget(staging)),
        ("client leaves", lambda: _client_leaves(staging)),
        ("rotation under load", lambda: _rotation(staging)),
        ("SIGKILL in mid-stream", lambda: _kill(staging, processes.kill)),
        ("store pause", lambda: _pause(staging, processes.pause_store, processes.pause_s)),
        ("ledger", lambda: _ledger(staging)),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(Finding(name, *check()))
        except CliError as error:
            findings.append(Finding(name, passed=False, detail=" ".join(error.lines)))
    return findings


def _concurrency(staging: StagingGateway) -> tuple[bool, str]:
    replies = staging.send_many(staging.create_key(concurrency=_SLOTS))
    staging.wait_until_settled()
    spans = [staging.slot_span(one.request_id) for one in replies if one.is_success]
    highest = max_overlap([span for span in spans if span is not None])
    passed = bool(spans) and highest <= _SLOTS and _refused_by(replies, "concurrency_exceeded")
    return passed, f"{highest} of {_SLOTS} slots were taken at the same time; {_counts(replies)}"


def _rate(staging: StagingGateway) -> tuple[bool, str]:
    began = time.monotonic()
    replies = staging.send_many(staging.create_key(rpm=_REQUESTS_PER_MINUTE), stream=False)
    permitted = _REQUESTS_PER_MINUTE + int((time.monotonic() - began) * _REQUESTS_PER_MINUTE / _MINUTE_S)
    served = sum(one.is_success for one in replies)
    passed = 0 < served <= permitted and _refused_by(replies, "rate_limit_exceeded")
    return passed, f"{served} were served of {permitted} permitted; {_counts(replies)}"


def _budget(staging: StagingGateway) -> tuple[bool, str]:
    hold = Decimal(staging.hold_usd(staging.create_key()))
    if not hold:
        return True, "the model is free"
    key = staging.create_key_record(budget_usd_total=f"{_SLOTS * hold:f}")
    replies = staging.send_many(key["key"])
    staging.wait_until_settled()
    budget = staging.admin.get(f"{staging.path}/keys/{key['id']}")["limits"]["budget_usd_total"]
    passed = Decimal(budget["used_usd"]) <= Decimal(budget["limit_usd"]) and _refused_by(replies, "insufficient_quota")
    return passed, f"{budget['used_usd']} of {budget['limit_usd']} USD are used; {_counts(replies)}"


def _client_leaves(staging: StagingGateway) -> tuple[bool, str]:
    key = staging.create_key(concurrency=1)
    left = staging.send(key, on_bytes=lambda: False)
    settled = staging.wait_until_settled()
    again = staging.send(key, stream=False)
    state = staging.admin.get(f"/requests/{left.request_id}")["state"] if left.request_id else "unknown"
    return (
        settled and again.is_success and state == "settled",
        f"the request is {state}; the next one got {_result(again)}",
    )


def _rotation(staging: StagingGateway) -> tuple[bool, str]:
    key = staging.create_key_record()
    secrets, replies = [key["key"]], []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            replies.append(staging.send(secrets[-1], stream=False))

    with ThreadPoolExecutor(_STREAMS) as pool:
        clients = [pool.submit(client) for _ in range(_STREAMS)]
        try:
            for _ in range(2):
                path = f"{staging.path}/keys/{key['id']}/rotate"
                secrets.append(staging.admin.post(path, {"overlap_s": 600})["key"])
                time.sleep(1)  # requests with both secrets are on their way
        finally:
            stop.set()
    for one in clients:
        one.result()
    last = staging.admin.post(f"{staging.path}/keys/{key['id']}/rotate", {"overlap_s": 0})["key"]
    old, new = staging.send(secrets[-1], stream=False), staging.send(last, stream=False)
    passed = all(one.is_success for one in replies) and old.status == _UNAUTHORIZED and new.is_success
    return passed, f"{_counts(replies)}; the old secret got {_result(old)}, the new one {_result(new)}"


def _kill(staging: StagingGateway, pid: int) -> tuple[bool | None, str]:
    if not pid:
        return None, "needs --kill PID, a gateway or a worker on this machine"
    replies, killed = _with_streams(staging, lambda: os.kill(pid, signal.SIGKILL))
    back, settled = staging.wait_until_ready(), staging.wait_until_settled()
    detail = f"{killed}; {_counts(replies)}; {'nothing is held' if settled else 'something is still held'}"
    return back and settled, detail if back else f"{detail}; the gateway did not become ready again"


def _pause(staging: StagingGateway, pid: int, pause_s: float) -> tuple[bool | None, str]:
    if not pid:
        return None, "needs --pause-store PID, the store on this machine"
    key = staging.create_key()
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        replies = staging.send_many(key, _STREAMS, stream=False)
        took_s = time.monotonic() - began
        time.sleep(max(0.0, pause_s - took_s))
    finally:
        os.kill(pid, signal.SIGCONT)
    back, settled = staging.wait_until_ready(), staging.wait_until_settled()
    after = staging.send(key, stream=False)
    soon = took_s < _SOON_S and all(one.status for one in replies)
    return soon and back and settled and after.is_success, f"meanwhile {_counts(replies)}; afterwards {_result(after)}"


def _ledger(staging: StagingGateway) -> tuple[bool, str]:
    settled, problems = staging.wait_until_settled(), staging.ledger_problems()
    detail = "; ".join(problems[:3]) or f"{len(staging.served)} answers are posted once each; the balances agree"
    return settled and not problems, detail if settled else f"something is still held; {detail}"


def _with_streams(staging: StagingGateway, act: Callable[[], None]) -> tuple[list[Reply], str]:
    """Calls `act` while streams are open, each of which has begun."""
    key, begun, acted = staging.create_key(), threading.Barrier(_STREAMS + 1), threading.Event()

    def on_bytes() -> bool:
        begun.wait(_MINUTE_S)
        return acted.wait(_MINUTE_S)

    with ThreadPoolExecutor(_STREAMS) as pool:
        streams = [pool.submit(staging.send, key, on_bytes=on_bytes) for _ in range(_STREAMS)]
        try:
            begun.wait(_MINUTE_S)
            act()
        except (threading.BrokenBarrierError, OSError) as error:
            begun.abort()
            raise CliError(f"this check could not run: {str(error) or 'not every stream began'}") from None
        finally:
            acted.set()
        return [one.result() for one in streams], f"{_STREAMS} streams were open"


def _refused_by(replies: Sequence[Reply], code: str) -> bool:
    """Whether every request that was not served was refused for this reason."""
    return all(one.code == code for one in replies if not one.is_success)


def _counts(replies: Sequence[Reply]) -> str:
    return ", ".join(f"{number} x {result}" for result, number in Counter(map(_result, replies)).most_common())


def _result(reply: Reply) -> str:
    return f"{reply.status} {reply.code}".strip() if reply.status else reply.code
