"""How long requests keep their slots, so that a refusal at a limit of concurrency states when a slot becomes free.

Each finished request updates the averages of its key and its team, outside of the request's path
(request_reporter.py). If n requests run, the next one ends after about one n-th of the average. Without an average, the
time is a guess.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import AdmissionRefused

GUESS_S: Final = 1.0
_GUESS_MS: Final = round(GUESS_S * 1000)
"""What the admission script says where it knows no better."""
_WEIGHT: Final = 0.2  # of the newest request in the average
_MAX_SUBJECTS: Final = 10_000
_MIN_WAIT_MS, _MAX_WAIT_MS = 100, 60_000


class SlotTimes:
    """The averages of one worker. Mutable: those of the most recent teams and keys."""

    def __init__(self) -> None:
        self._average_s: OrderedDict[str, float] = OrderedDict()

    def note(self, team_id: str, key_id: str, kept_s: float) -> None:
        """Notes how long a request kept its slot."""
        for subject in (team_id, f"{team_id}/{key_id}"):
            before = self._average_s.pop(subject, kept_s)
            self._average_s[subject] = before + (kept_s - before) * _WEIGHT
        while len(self._average_s) > _MAX_SUBJECTS:
            self._average_s.popitem(last=False)

    def wait_ms(self, team_id: str, key_id: str, running: int) -> int:
        """Returns after how long one of the running requests of a key ends. A key_id of "" means the whole team."""
        average_s = self._average_s.get(f"{team_id}/{key_id}" if key_id else team_id)
        if average_s is None:
            return _GUESS_MS
        return min(_MAX_WAIT_MS, max(_MIN_WAIT_MS, round(average_s * 1000 / max(1, running))))

    def with_wait_time(self, refused: AdmissionRefused, key: ApiKey) -> AdmissionRefused:
        """Returns a refusal. At a limit of concurrency it states when a slot becomes free."""
        if refused.code == "concurrency_exceeded" and refused.wait_ms == _GUESS_MS and refused.used:
            key_id = key.key_id if refused.explain.get("scope") == "key" else ""
            refused.wait_ms = self.wait_ms(key.team_id, key_id, refused.used) * (1 + refused.ahead)
        return refused
