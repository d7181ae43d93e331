"""The protections of what is held and of what follows where a hold was too small, as data: see `protections`."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_TEST_OVERRUNS: Final = "tests/billing/test_overruns.py"

HOLD_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a cost above its hold pauses the team where the route says so",
        "gateway/billing/settlement.py",
        "if terms.pause_on_overrun and settlement.over_nano_usd:",
        "if False:",
        f"{_TEST_OVERRUNS}::test_the_route_decides_before_the_default",
    ),
    Protection(
        "a paused team is refused what costs",
        "gateway/store/scripts/admit_v3.lua",
        "local paused = amount > 0 and team_limits[FOURTH + 2]",
        "local paused = false",
        f"{_TEST_OVERRUNS}::test_the_refusal_says_why_since_when_and_who_can_help",
    ),
    Protection(
        "a paused team is not refused what is free",
        "gateway/store/scripts/admit_v3.lua",
        "amount > 0 and team_limits[FOURTH + 2]",
        "team_limits[FOURTH + 2]",
        f"{_TEST_OVERRUNS}::test_what_costs_nothing_passes",
    ),
)
