"""Usage by the hour (UTC) or the day (of the team's time zone), rolled up when requests end.

    gw:{T}:used:<hour>  gw:{T}:used-day:<day>   "<key>|<model>" -> "requests input cached output cost"
    gw:{T}:seen:<hour>  gw:{T}:seen-day:<day>   see outcome_rollups.py

The script that posts a cost also writes the usage, so what a page shows is what was charged. A request counts at the
time of its admission. A later correction (usage that became known after settlement) counts at the time of its request.

Teams are read one after another, with a bounded number of steps per call. Rows are yielded at once, and all rows of a
team come before those of the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.reporting.outcome_rollups import OutcomeCounts, read_outcomes
from gateway.store.keyspace import Step, TeamKeys
from gateway.store.replies import gather_pages
from gateway.store.script import Script
from gateway.store.store import Store

ROLLUPS: Final = Script.load("rollups_v1")
_STEPS: Final = 31  # steps per call: a month of days
_BATCH_SIZE: Final = 32  # calls per write to the store


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one model by one key in one step of time, or of one value of a tag.

    `cost` is in nano-USD; `start_ms`: see report_steps.py.
    """

    team_id: str
    key_id: str
    model: str
    start_ms: int
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: int
    value: str = ""


async def rolled_up(
    store: Store, team_ids: AsyncIterable[str], starts: Sequence[int], step: Step, *, with_outcomes: bool
) -> AsyncIterator[UsageRow | OutcomeCounts]:
    """Yields all rows of these steps, by their labels (report_steps.py). Raises GatewayError `store_unavailable`."""
    parts = [starts[at : at + _STEPS] for at in range(0, len(starts), _STEPS)]
    wanted: list[tuple[str, Sequence[int]]] = []
    async for team_id in team_ids:
        for part in parts:
            wanted.append((team_id, part))
            if len(wanted) == _BATCH_SIZE:
                for row in await _read(store, wanted, step, with_outcomes=with_outcomes):
                    yield row
                wanted = []
    for row in await _read(store, wanted, step, with_outcomes=with_outcomes):
        yield row


async def _read(
    store: Store, wanted: list[tuple[str, Sequence[int]]], step: Step, *, with_outcomes: bool
) -> list[UsageRow | OutcomeCounts]:
    calls = []
    for team_id, starts in wanted:
        names = TeamKeys(team_id)
        keys = [names.usage(step, start_ms) for start_ms in starts]
        keys += [names.outcomes(step, start_ms) for start_ms in starts] if with_outcomes else []
        calls.append(partial(store.call, ROLLUPS, keys, []))
    rows: list[UsageRow | OutcomeCounts] = []
    for (team_id, starts), found in zip(wanted, await gather_pages(store, calls), strict=True):
        for number, flat in zip(found[::2], found[1::2], strict=True):
            at = number - 1
            if at < len(starts):
                rows += _read_usage(team_id, starts[at], flat)
            else:
                rows += read_outcomes(team_id, starts[at - len(starts)], flat)
    return rows


def _read_usage(team_id: str, start_ms: int, flat: list[bytes]) -> Iterator[UsageRow]:
    for name, totals in zip(flat[::2], flat[1::2], strict=True):
        key_id, _bar, model = name.decode().partition("|")  # the name of a model may contain a bar
        requests, read, cached, made, cost = map(int, totals.split())
        yield UsageRow(team_id, key_id, model, start_ms, requests, read, cached, made, cost)
