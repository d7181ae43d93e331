"""The gateway that `gateway doctor` examines: a team of its own there, and requests of it, many at once.

Patient.key(...)         a new key of the team, with limits
Patient.ask(key)         one request: how it ended, when it began and ended, its id
Patient.parallel(key)    many at once
Patient.settled()        waits until nothing of the team is held any more
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.cli.calls import NoAnswerError, NoConnectionError, Stream
from gateway.cli.client import AdminClient, called, team_path
from gateway.cli.errors import CliError

LONGEST_S: Final = 60.0
"""How long anything is waited for that has to come: a settlement, a gateway that is back."""
_EVERY_S: Final = 0.1
_TIMEOUT_S: Final = 120.0
_DRY_RUN: Final = MappingProxyType({"x-gateway-dry-run": "true"})
_PROMPT: Final = "Count from 1 to 200, a number a line."


class Reply(NamedTuple):
    """How a request ended. `status` 0: without an answer, and `code` is the fault."""

    status: int
    code: str
    request_id: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was served."""
        return self.status == HTTPStatus.OK


class Patient:
    """A staging gateway. Mutable: `served`, the ids of requests that have their answer, or a part of it."""

    def __init__(self, admin: AdminClient, model: str, requests: int, max_output_tokens: int, credits_usd: str) -> None:
        self.admin = admin
        self.requests = requests
        self.served: list[str] = []
        self._body = {"model": model, "input": _PROMPT, "max_output_tokens": max_output_tokens}
        body = {"name": f"doctor-{uuid.uuid4().hex[:8]}", "credits_usd": credits_usd}
        self.team = admin.post("/teams", body)
        self.path = team_path(self.team["id"])

    def key(self, **limits: int | str) -> str:
        """Creates a key of the team, and returns its text."""
        return str(self.new_key(**limits)["key"])

    def new_key(self, **limits: int | str) -> dict[str, Any]:
        """Creates a key of the team."""
        return self.admin.post(f"{self.path}/keys", {"name": f"doctor {uuid.uuid4().hex[:6]}", "limits": limits})

    def ask(
        self, key: str, *, stream: bool = True, on_bytes: Callable[[], bool] = lambda: True, dry_run: bool = False
    ) -> Reply:
        """Sends one request. `on_bytes` is called when the first bytes have come; False: the client leaves."""
        headers = _DRY_RUN if dry_run else None
        body = {**self._body, "stream": stream}
        try:
            with (
                called(self.admin.url, key, timeout_s=_TIMEOUT_S) as calls,
                calls.opened("POST", "/v1/responses", body=body, headers=headers) as answer,
            ):
                return self._read(answer, on_bytes)
        except (NoConnectionError, NoAnswerError) as error:
            return Reply(0, str(error))

    def _read(self, answer: Stream, on_bytes: Callable[[], bool]) -> Reply:
        request_id = answer.headers.get("x-request-id", "")
        pieces: list[bytes] = []
        for piece in answer.pieces():
            if not pieces and not on_bytes():
                self.served.append(request_id)
                return Reply(answer.status, "left", request_id)
            pieces.append(piece)
        if answer.is_success:
            self.served.append(request_id)
        return Reply(answer.status, _code(b"".join(pieces)), request_id)

    def parallel(self, key: str, count: int = 0, **options: Any) -> list[Reply]:
        """Sends many requests at once."""
        count = count or self.requests
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.ask(key, **options), range(count)))

    def hold_usd(self, key: str) -> str:
        """Returns what is held for one of the requests."""
        with called(self.admin.url, key, timeout_s=_TIMEOUT_S) as calls:
            answer = calls.request("POST", "/v1/responses", body=self._body, headers=_DRY_RUN)
        if not answer.is_success:
            raise CliError(f"a dry run is refused: {answer.status} {_code(answer.body)}")
        return str(answer.json()["hold"]["amount_usd"])

    def settled(self) -> bool:
        """Waits until nothing is held for the team any more."""
        return waited(lambda: self.admin.get(self.path)["balance"]["held_usd"] == "0")

    def is_back(self) -> bool:
        """Waits until the gateway serves."""
        return waited(self.admin.is_ready)

    def ran(self, request_id: str) -> tuple[float, float] | None:
        """Returns when a settled request had its slot, by the gateway's and its store's word; None: it is not told.

        Its beginning is told a little late, by what its settlement took to reach the store, and never early. What the
        client saw would not do: it may read the last bytes long after they were sent.
        """
        if not waited(lambda: bool(self.admin.get(f"/requests/{request_id}")["timings"])):
            return None
        found = self.admin.get(f"/requests/{request_id}")
        end_s = datetime.fromisoformat(found["at"]).timestamp()
        took_ms = found["timings"]["relayed_ms"] - found["timings"]["admit_ms"]
        return end_s - took_ms / 1000, end_s

    def disagreements(self) -> list[str]:
        """Returns what the books of the team lack, and what was served and is in them not once."""
        found = self.admin.get("/ledger/verify", {"team": self.team["id"]})
        problems = [difference["name"] for one in found["data"] for difference in one["differences"]]
        posted = [entry["request_id"] for entry in self.admin.every(f"{self.path}/journal", {"type": "settle"})]
        return problems + [
            f"{one} is posted {posted.count(one)} times" for one in self.served if posted.count(one) != 1
        ]

    def discharge(self) -> None:
        """Deletes the team."""
        self.admin.delete(self.path)


def waited(condition: Callable[[], bool]) -> bool:
    """Waits for a condition, and returns whether it came true. A gateway that is away is asked again."""
    until_s = time.monotonic() + LONGEST_S
    while True:
        try:
            if condition():
                return True
        except CliError:
            if time.monotonic() > until_s:
                raise
        if time.monotonic() > until_s:
            return False
        time.sleep(_EVERY_S)


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Returns how many spans of time overlap at most."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = running = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


def _code(body: bytes) -> str:
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError):
        return ""
    return str(error.get("code", "")) if isinstance(error, dict) else ""
