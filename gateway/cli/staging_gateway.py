"""The gateway that `gateway doctor` examines: a team of the doctor's own on it, and the requests of that team.

StagingGateway.create_key(...)        creates a key of the team, with limits
StagingGateway.send(key)              sends one request, and returns how it ended
StagingGateway.send_many(key)         sends many requests at the same time
StagingGateway.wait_until_settled()   waits until nothing is held for the team any more
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

MAX_WAIT_S: Final = 60.0
"""How long the doctor waits for a settlement, or for a gateway that starts again."""
_POLL_EVERY_S: Final = 0.1
_TIMEOUT_S: Final = 120.0
_DRY_RUN: Final = MappingProxyType({"x-gateway-dry-run": "true"})
_PROMPT: Final = "Count from 1 to 200, a number a line."


class Reply(NamedTuple):
    """How a request ended. Status 0 means that no answer came; `code` then says why."""

    status: int
    code: str
    request_id: str = ""

    @property
    def is_success(self) -> bool:
        """Whether it was served."""
        return self.status == HTTPStatus.OK


class StagingGateway:
    """A staging gateway and the team on it.

    Mutable: `served` lists the ids of the requests that were answered in whole or in part.
    """

    def __init__(self, admin: AdminClient, model: str, requests: int, max_output_tokens: int, credits_usd: str) -> None:
        self.admin = admin
        self.requests = requests
        self.served: list[str] = []
        self._body = {"model": model, "input": _PROMPT, "max_output_tokens": max_output_tokens}
        body = {"name": f"doctor-{uuid.uuid4().hex[:8]}", "credits_usd": credits_usd}
        self.team = admin.post("/teams", body)
        self.path = team_path(self.team["id"])

    def create_key(self, **limits: int | str) -> str:
        """Creates a key of the team and returns its text."""
        return str(self.create_key_record(**limits)["key"])

    def create_key_record(self, **limits: int | str) -> dict[str, Any]:
        """Creates a key of the team and returns the admin API's answer."""
        return self.admin.post(f"{self.path}/keys", {"name": f"doctor {uuid.uuid4().hex[:6]}", "limits": limits})

    def send(
        self, key: str, *, stream: bool = True, on_bytes: Callable[[], bool] = lambda: True, dry_run: bool = False
    ) -> Reply:
        """Sends one request. `on_bytes` is called once bytes have come; if it returns False, the client leaves."""
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
                return Reply(answer.status, "client left", request_id)
            pieces.append(piece)
        if answer.is_success:
            self.served.append(request_id)
        return Reply(answer.status, _code(b"".join(pieces)), request_id)

    def send_many(self, key: str, count: int = 0, **options: Any) -> list[Reply]:
        """Sends many requests at the same time."""
        count = count or self.requests
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.send(key, **options), range(count)))

    def hold_usd(self, key: str) -> str:
        """Returns what is held for one of the requests."""
        with called(self.admin.url, key, timeout_s=_TIMEOUT_S) as calls:
            answer = calls.request("POST", "/v1/responses", body=self._body, headers=_DRY_RUN)
        if not answer.is_success:
            raise CliError(f"a dry run is refused: {answer.status} {_code(answer.body)}")
        return str(answer.json()["hold"]["amount_usd"])

    def wait_until_settled(self) -> bool:
        """Waits until nothing is held for the team any more."""
        return _wait_for(lambda: self.admin.get(self.path)["balance"]["held_usd"] == "0")

    def wait_until_ready(self) -> bool:
        """Waits until the gateway serves requests."""
        return _wait_for(self.admin.is_ready)

    def slot_span(self, request_id: str) -> tuple[float, float] | None:
        """Returns from when to when a settled request had its slot, in Unix seconds, or None if no timings come.

        The times are the gateway's. A client's would be wrong, because it may read the last bytes long after they were
        sent. The beginning may be a little too late, by the time that the settlement took, and is never too early.
        """
        if not _wait_for(lambda: bool(self.admin.get(f"/requests/{request_id}")["timings"])):
            return None
        found = self.admin.get(f"/requests/{request_id}")
        end_s = datetime.fromisoformat(found["at"]).timestamp()
        took_ms = found["timings"]["relayed_ms"] - found["timings"]["admit_ms"]
        return end_s - took_ms / 1000, end_s

    def ledger_problems(self) -> list[str]:
        """Returns what differs in the team's ledger, and the served requests that are not posted exactly once."""
        found = self.admin.get("/ledger/verify", {"team": self.team["id"]})
        problems = [difference["name"] for one in found["data"] for difference in one["differences"]]
        posted = [entry["request_id"] for entry in self.admin.every(f"{self.path}/journal", {"type": "settle"})]
        return problems + [
            f"{one} is posted {posted.count(one)} times" for one in self.served if posted.count(one) != 1
        ]

    def delete_team(self) -> None:
        """Deletes the team."""
        self.admin.delete(self.path)


def _wait_for(condition: Callable[[], bool]) -> bool:
    """Waits for a condition and returns whether it came true. Calls that fail meanwhile are repeated."""
    until_s = time.monotonic() + MAX_WAIT_S
    while True:
        try:
            if condition():
                return True
        except CliError:
            if time.monotonic() > until_s:
                raise
        if time.monotonic() > until_s:
            return False
        time.sleep(_POLL_EVERY_S)


def max_overlap(spans: Sequence[tuple[float, float]]) -> int:
    """Returns the largest number of time spans that overlap."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    highest = running = 0
    for _, step in edges:
        running += step
        highest = max(highest, running)
    return highest


def _code(body: bytes) -> str:
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError):
        return ""
    return str(error.get("code", "")) if isinstance(error, dict) else ""
