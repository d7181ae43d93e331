"""`gateway top`: requests as they end, and what teams spend. A live table on a terminal, lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json
from gateway.cli.signatures import option

LAST: Final = 12


@dataclass
class LiveTable:
    """The live table: counts since the start. Mutable."""

    started: float = field(default_factory=time.monotonic)
    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    spent: dict[str, Decimal] = field(default_factory=dict)
    last: deque[Json] = field(default_factory=lambda: deque(maxlen=LAST))

    def add(self, event: Json) -> None:
        """Adds a finished request."""
        team = str(event["team_id"] or "-")
        self.requests[team] += 1
        self.refused[team] += event["outcome"] == "refused"
        self.spent[team] = self.spent.get(team, Decimal(0)) + Decimal(event["cost_usd"] or 0)
        self.last.append(event)

    def render(self, names: dict[str, str]) -> RenderableType:
        """Returns the table to display."""
        elapsed_s = max(1.0, time.monotonic() - self.started)
        teams = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("TEAM", "REQUESTS", "PER SECOND", "REFUSED", "SPENT USD"):
            teams.add_column(heading, justify="left" if heading == "TEAM" else "right")
        for team, count in self.requests.most_common(20):
            rate = f"{count / elapsed_s:.1f}"
            teams.add_row(
                Text(names.get(team, team)), str(count), rate, str(self.refused[team]), f"{self.spent[team]:f}"
            )
        return Group(
            Text(f"{elapsed_s:.0f} s; Ctrl-C ends\n"), teams, Text(), *(Text(line(event)) for event in self.last)
        )


def top(
    *,
    team: Annotated[str | None, option("One team; without it, all.")] = None,
    count: Annotated[int | None, option("End after so many requests.", minimum=1)] = None,
    as_json: Annotated[bool, option("JSON Lines.", "--json")] = False,
) -> None:
    """Watch requests as they end, live."""
    with AdminClient.from_environment() as client:
        names = {found["id"]: found["name"] for found in client.every("/teams", {"all": "true"})}
        events = client.events(options.given(team=team))
        next(events)  # from here on, every request is shown
        if as_json or not sys.stdout.isatty():
            _lines(events, count, as_json=as_json)
            return
        table, seen = LiveTable(), 0
        with Live(table.render(names), console=Console(), refresh_per_second=4) as live:
            for event in events:
                table.add(event)
                live.update(table.render(names))
                seen += 1
                if seen == count:
                    return


def line(event: Json) -> str:
    """Returns a request as one line."""
    why = f" {event['scope'] or ''} {event['limit'] or ''} {event['code']}" if event["code"] else ""
    if why and event.get("detail"):  # gateways of earlier versions do not send it
        why += f" ({event['detail']})"
    cost = f" {event['cost_usd']} USD" if event["cost_usd"] else ""
    took = f" {event['total_ms']:.0f} ms" if event["total_ms"] is not None else ""
    return f"{event['id']} {event['status']} {event['outcome']}{why} {event['model'] or '-'}{cost}{took}"


def _lines(events: Any, count: int | None, *, as_json: bool) -> None:
    for seen, event in enumerate(events, start=1):
        sys.stdout.write((output.json_line(event) if as_json else line(event)) + "\n")
        sys.stdout.flush()
        if seen == count:
            return
