"""The world of one schedule: its time, its chance, and what is going to happen.

    world = World(seed)
    world.at(when_s, action)      an action in simulated time; what happens at the same moment happens in any order
    world.run(until_s)            takes one action after the other; no time passes between them
    with world.in_force():        `time`, `os.urandom` and `random` belong to the world

Everything that a schedule does follows from its seed: the same seed gives the same schedule.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Final
from unittest import mock

BEGINNING_MS: Final = 4_102_444_800_000
"""The moment at which each schedule begins: 2100-01-01. The real clock ends no lifetime of a key, this one does."""
_START_S: Final = 1000.0


class World:
    """Mutable: the time, what is going to happen, and a digest of what has happened."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - a schedule must be repeatable
        self.now_s = _START_S
        self.digest = 0
        self._tell = tell
        self._agenda: list[tuple[float, float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    @property
    def now_ms(self) -> int:
        """The true time in ms since 1970."""
        return BEGINNING_MS + int((self.now_s - _START_S) * 1000)

    @property
    def passed_s(self) -> float:
        """How long the schedule has taken."""
        return self.now_s - _START_S

    def at(self, when_s: float, action: Callable[[], object]) -> None:
        """Plans an action."""
        heapq.heappush(self._agenda, (when_s, self.random.random(), next(self._numbers), action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Plans an action for later."""
        self.at(self.now_s + delay_s, action)

    def run(self, until_s: float) -> None:
        """Lets everything happen that is planned until then."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= until_s:
            when_s, _, _, action = heapq.heappop(agenda)
            self.now_s = max(self.now_s, when_s)
            action()
        self.now_s = max(self.now_s, until_s)

    @property
    def has_more_now(self) -> bool:
        """Whether something else is planned for this very moment."""
        return bool(self._agenda) and self._agenda[0][0] <= self.now_s

    def note(self, what: str) -> None:
        """Adds to the digest what has happened; tells it, if somebody listens."""
        self.digest = zlib.crc32(what.encode(), self.digest)
        if self._tell is not None:
            self._tell(f"{self.passed_s:9.4f} s  {what}")

    @property
    def is_told(self) -> bool:
        """Whether somebody listens."""
        return self._tell is not None

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """The clocks and the randomness of this process are the world's inside the block."""
        before = random.getstate()
        random.seed(self.seed)
        with (
            mock.patch.object(time, "time", self._time),
            mock.patch.object(time, "time_ns", self._time_ns),
            mock.patch.object(time, "monotonic", self._monotonic),
            mock.patch.object(os, "urandom", self.random.randbytes),
        ):
            try:
                yield
            finally:
                random.setstate(before)

    def _time(self) -> float:
        return self.now_ms / 1000

    def _time_ns(self) -> int:
        return self.now_ms * 1_000_000

    def _monotonic(self) -> float:
        return self.now_s
