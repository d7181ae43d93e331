"""The steps of a report: hours, or days of a team's time zone. Pure.

A step has a label, which names its roll-up in the store: the time in ms at which it would begin in UTC. An hour is one
of UTC's, and its label is its beginning. The label of a day is its date: a team's days are rolled up by the dates of
its time zone, so that they have 23 or 25 hours where clocks are changed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from gateway.accounts.periods import begin_ms, day_of
from gateway.protocol.timestamps import iso_time
from gateway.store.keyspace import STEP_MS, Step

_FIRST: Final = date(1970, 1, 1)


class ReportSteps(NamedTuple):
    """How a report is cut into steps."""

    step: Step
    zone: tzinfo

    @property
    def width_ms(self) -> int:
        """The difference between two labels that follow one another."""
        return STEP_MS[self.step]

    def label(self, at_ms: int) -> int:
        """Returns the label of the step that contains a moment."""
        if self.step == "hour":
            return at_ms - at_ms % self.width_ms
        return (day_of(at_ms, self.zone) - _FIRST).days * self.width_ms

    def label_from(self, at_ms: int) -> int:
        """Returns the label of the first step that begins at a moment or after it."""
        label = self.label(at_ms)
        return label if self.begin_ms(label) >= at_ms else label + self.width_ms

    def begin_ms(self, label: int) -> int:
        """Returns the moment at which a step begins."""
        if self.step == "hour":
            return label
        return begin_ms(_FIRST + timedelta(days=label // self.width_ms), self.zone)

    def begin(self, label: int) -> str:
        """Returns that moment in ISO 8601, in the time zone."""
        return iso_in(self.begin_ms(label), self.zone)


def iso_in(at_ms: int, zone: tzinfo) -> str:
    """Returns a moment in ISO 8601, in a time zone."""
    if zone is UTC:
        return iso_time(at_ms)
    return datetime.fromtimestamp(at_ms / 1000, zone).isoformat(timespec="milliseconds")
