"""How long requests really keep their slots, so that a refusal at a limit of concurrency says when one comes free.

Each finished request moves its key's and its team's average, off the request's path (request_reporter.py). With n
requests running, the next of them ends after about an n-th of the average. Until something is known, it is a guess.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import AdmissionRefused

GUESS_S: Final = 1.0
_WEIGHT: Final = 0.2  # of the newest request
_MOST_KNOWN: Final = 10_000
_SHORTEST_MS, _LONGEST_MS = 100, 60_000


class SlotTimes:
    """The averages of one worker. Mutable: those of the subjects that were seen last."""

    def __init__(self) -> None:
        self._average_s: OrderedDict[str, float] = OrderedDict()

    def note(self, team_id: str, key_id: str, kept_s: float) -> None:
        """Notes for how long a request had its slot."""
        for subject in (team_id, f"{team_id}/{key_id}"):
            before = self._average_s.pop(subject, kept_s)
            self._average_s[subject] = before + (kept_s - before) * _WEIGHT
        while len(self._average_s) > _MOST_KNOWN:
            self._average_s.popitem(last=False)

    def wait_ms(self, team_id: str, key_id: str, running: int) -> int:
        """Returns after how long one of the running requests of a key ends; of its team, for a key_id of ""."""
        average_s = self._average_s.get(f"{team_id}/{key_id}" if key_id else team_id)
        if average_s is None:
            return round(GUESS_S * 1000)
        return min(_LONGEST_MS, max(_SHORTEST_MS, round(average_s * 1000 / max(1, running))))

    def told(self, refused: AdmissionRefused, key: ApiKey) -> AdmissionRefused:
        """Returns a refusal that says when a slot comes free, if one at the limit of concurrency will."""
        if refused.code == "concurrency_exceeded" and refused.wait_ms and refused.used:
            key_id = key.key_id if refused.explain.get("scope") == "key" else ""
            refused.wait_ms = self.wait_ms(key.team_id, key_id, refused.used) * (1 + refused.ahead)
        return refused
