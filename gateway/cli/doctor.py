"""`gateway doctor`: does a staging gateway hold what it promises, under parallel requests, kills and pauses?

| check               | what is done                                  | what must hold                              |
|---------------------|-----------------------------------------------|---------------------------------------------|
| concurrency         | many requests at once of a key with few slots | never more at once                          |
| requests per minute | the same of a key with a low rate             | not one more                                |
| budget              | the same of a key with a budget for three     | not a nano-dollar more                      |
| leaving early       | a client leaves in the middle of a stream     | its slot and its hold come back             |
| rotation under load | a key's secret is replaced, requests run      | none is refused, and the old secret ends    |
| SIGKILL             | a worker dies with open streams (`--kill`)    | what it held comes back                     |
| store pause         | the store stands still (`--pause-store`)      | requests fail soon, and are served again    |
| books               | all of it is added up                         | each answer is posted once, balances agree  |

It works through the admin API, with a team of its own that it deletes. What needs control over processes is an option.
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
from typing import Annotated, Any, Final, NamedTuple

from gateway.cli import options, output
from gateway.cli.client import AdminClient
from gateway.cli.doctor_patient import Patient, Reply, most_at_once
from gateway.cli.errors import CliError
from gateway.cli.signatures import option

_SLOTS: Final = 3
_REQUESTS_A_MINUTE: Final = 5
_MINUTE_S: Final = 60
_STREAMS: Final = 4
_SOON_S: Final = 10.0
_UNAUTHORIZED: Final = 401


class Finding(NamedTuple):
    """What a check found. `held`: None: it was skipped."""

    check: str
    held: bool | None
    said: str


class Tools(NamedTuple):
    """What local process control is permitted. 0: none."""

    kill: int = 0
    pause_store: int = 0
    pause_s: float = 5.0


def doctor(  # noqa: PLR0913 - the command's flags
    *,
    model: Annotated[str, option("A model with answers of some seconds; each check sends requests to it.")],
    requests: Annotated[int, option("Requests at once.", minimum=4, maximum=500)] = 20,
    max_output_tokens: Annotated[int, option("The longest answer.", minimum=16)] = 256,
    credits_usd: Annotated[str, option("What it may spend in all, in USD.", "--credits")] = "1.00",
    kill: Annotated[int, option("The process id of a gateway or of its worker, to be killed.", minimum=0)] = 0,
    pause_store: Annotated[int, option("The process id of the store, to be paused.", minimum=0)] = 0,
    pause_s: Annotated[float, option("For how long.", minimum=0.1, maximum=300)] = 5.0,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Examine a STAGING gateway: limits, leaving, rotation, and kills and pauses where their process ids are given."""
    with AdminClient.from_environment() as admin:
        options.confirm(f"Send requests for up to {credits_usd} USD through {admin.url}?", yes=yes)
        patient = Patient(admin, model, requests, max_output_tokens, credits_usd)
        try:
            findings = examine(patient, Tools(kill, pause_store, pause_s))
        finally:
            patient.discharge()
    if as_json:
        output.as_json([finding._asdict() for finding in findings])
    else:
        rows = [(one.check, _WORDS[one.held], one.said) for one in findings]
        output.table(("CHECK", "HELD", "WHAT WAS SEEN"), rows, empty="")
    if any(one.held is False for one in findings):
        raise CliError("not everything held")


_WORDS: Final[Mapping[bool | None, str]] = MappingProxyType({True: "yes", False: "NO", None: "skipped"})


def examine(patient: Patient, tools: Tools) -> list[Finding]:
    """Runs every check, whatever the others found."""
    first = patient.ask(patient.key(), stream=False)
    if not first.is_good:
        raise CliError(f"a first request is not served: {first.status} {first.code}")
    checks: Sequence[tuple[str, Callable[[], tuple[bool | None, str]]]] = (
        ("concurrency", lambda: _concurrency(patient)),
        ("requests per minute", lambda: _rate(patient)),
        ("budget", lambda: _budget(patient)),
        ("leaving early", lambda: _leaving(patient)),
        ("rotation under load", lambda: _rotation(patient)),
        ("SIGKILL in mid-stream", lambda: _kill(patient, tools.kill)),
        ("store pause", lambda: _pause(patient, tools.pause_store, tools.pause_s)),
        ("books", lambda: _books(patient)),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(Finding(name, *check()))
        except CliError as error:
            findings.append(Finding(name, held=False, said=" ".join(error.lines)))
    return findings


def _concurrency(patient: Patient) -> tuple[bool, str]:
    replies = patient.parallel(patient.key(concurrency=_SLOTS))
    patient.settled()
    spans = [patient.ran(one.request_id) for one in replies if one.is_good]
    most = most_at_once([span for span in spans if span is not None])
    held = bool(spans) and most <= _SLOTS and _refused_by(replies, "concurrency_exceeded")
    return held, f"{most} of {_SLOTS} at once; {_counts(replies)}"


def _rate(patient: Patient) -> tuple[bool, str]:
    began = time.monotonic()
    replies = patient.parallel(patient.key(rpm=_REQUESTS_A_MINUTE), stream=False)
    most = _REQUESTS_A_MINUTE + int((time.monotonic() - began) * _REQUESTS_A_MINUTE / _MINUTE_S)
    good = sum(one.is_good for one in replies)
    return 0 < good <= most and _refused_by(replies, "rate_limit_exceeded"), f"{good} of {most}; {_counts(replies)}"


def _budget(patient: Patient) -> tuple[bool, str]:
    hold = Decimal(patient.hold_usd(patient.key()))
    if not hold:
        return True, "the model is free"
    key = patient.new_key(budget_usd_total=f"{_SLOTS * hold:f}")
    replies = patient.parallel(key["key"])
    patient.settled()
    budget = patient.admin.get(f"{patient.path}/keys/{key['id']}")["limits"]["budget_usd_total"]
    held = Decimal(budget["used_usd"]) <= Decimal(budget["limit_usd"]) and _refused_by(replies, "insufficient_quota")
    return held, f"{budget['used_usd']} of {budget['limit_usd']} USD; {_counts(replies)}"


def _leaving(patient: Patient) -> tuple[bool, str]:
    key = patient.key(concurrency=1)
    left = patient.ask(key, on_bytes=lambda: False)
    settled = patient.settled()
    again = patient.ask(key, stream=False)
    state = patient.admin.get(f"/requests/{left.request_id}")["state"] if left.request_id else "unknown"
    return settled and again.is_good and state == "settled", f"it is {state}; the next one: {_said(again)}"


def _rotation(patient: Patient) -> tuple[bool, str]:
    key = patient.new_key()
    secrets, replies = [key["key"]], []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            replies.append(patient.ask(secrets[-1], stream=False))

    with ThreadPoolExecutor(_STREAMS) as pool:
        clients = [pool.submit(client) for _ in range(_STREAMS)]
        try:
            for _ in range(2):
                path = f"{patient.path}/keys/{key['id']}/rotate"
                secrets.append(patient.admin.post(path, {"overlap_s": 600})["key"])
                time.sleep(1)  # requests with both secrets are on their way
        finally:
            stop.set()
    for one in clients:
        one.result()
    last = patient.admin.post(f"{patient.path}/keys/{key['id']}/rotate", {"overlap_s": 0})["key"]
    old, new = patient.ask(secrets[-1], stream=False), patient.ask(last, stream=False)
    held = all(one.is_good for one in replies) and old.status == _UNAUTHORIZED and new.is_good
    return held, f"{_counts(replies)}; the old secret: {_said(old)}, the new one: {_said(new)}"


def _kill(patient: Patient, pid: int) -> tuple[bool | None, str]:
    if not pid:
        return None, "give --kill PID of a gateway or a worker on this machine"
    replies, killed = _with_streams(patient, lambda: os.kill(pid, signal.SIGKILL))
    back, settled = patient.is_back(), patient.settled()
    said = f"{killed}; {_counts(replies)}; {'nothing is held' if settled else 'something is still held'}"
    return back and settled, said if back else f"{said}; the gateway did not come back"


def _pause(patient: Patient, pid: int, pause_s: float) -> tuple[bool | None, str]:
    if not pid:
        return None, "give --pause-store PID of the store on this machine"
    key = patient.key()
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        replies = patient.parallel(key, _STREAMS, stream=False)
        took_s = time.monotonic() - began
        time.sleep(max(0.0, pause_s - took_s))
    finally:
        os.kill(pid, signal.SIGCONT)
    back, settled = patient.is_back(), patient.settled()
    after = patient.ask(key, stream=False)
    soon = took_s < _SOON_S and all(one.status for one in replies)
    return soon and back and settled and after.is_good, f"meanwhile {_counts(replies)}; afterwards {_said(after)}"


def _books(patient: Patient) -> tuple[bool, str]:
    settled, problems = patient.settled(), patient.disagreements()
    said = "; ".join(problems[:3]) or f"{len(patient.served)} answers, each posted once; balances agree"
    return settled and not problems, said if settled else f"something is still held; {said}"


def _with_streams(patient: Patient, act: Callable[[], None]) -> tuple[list[Reply], str]:
    """Does something while streams are open, each of which has begun."""
    key, begun, acted = patient.key(), threading.Barrier(_STREAMS + 1), threading.Event()

    def on_bytes() -> bool:
        begun.wait(_MINUTE_S)
        return acted.wait(_MINUTE_S)

    with ThreadPoolExecutor(_STREAMS) as pool:
        streams = [pool.submit(patient.ask, key, on_bytes=on_bytes) for _ in range(_STREAMS)]
        try:
            begun.wait(_MINUTE_S)
            act()
        except (threading.BrokenBarrierError, OSError) as error:
            begun.abort()
            raise CliError(f"it could not be done: {str(error) or 'not every stream began'}") from None
        finally:
            acted.set()
        return [one.result() for one in streams], f"{_STREAMS} streams were open"


def _refused_by(replies: Sequence[Reply], code: str) -> bool:
    """Whether what was not served was refused for this reason alone."""
    return all(one.code == code for one in replies if not one.is_good)


def _counts(replies: Sequence[Reply]) -> str:
    return ", ".join(f"{number} x {said}" for said, number in Counter(map(_said, replies)).most_common())


def _said(reply: Reply) -> Any:
    return f"{reply.status} {reply.code}".strip() if reply.status else reply.code
