"""`gateway requests`: the last requests, refused ones included, and the outcome of one request."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import typer

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment
from gateway.reporting.latency_buckets import duration

app = typer.Typer(help="Requests: the last ones, why one was refused, how one was settled.", no_args_is_help=True)
_Team = Annotated[str | None, typer.Option(help="One team; without it, all.")]


@app.command("list")
def list_(
    *,
    team: _Team = None,
    outcome: Annotated[str | None, typer.Option(help="Such as completed, client_left or refused.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
    as_json: options.AsJson = False,
) -> None:
    """List the last requests, newest first."""
    asked = options.given(team=team, outcome=outcome, limit=str(limit))
    with AdminClient.from_environment() as client:
        found = list(itertools.islice(client.every("/requests", asked), limit))
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("AT", "ID", "KEY", "MODEL", "OUTCOME", "COST USD", "WHY"), [_row(item) for item in found], empty="No requests."
    )


@app.command("show")
def show_(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of an answer.")],
    *,
    team: _Team = None,
    as_json: options.AsJson = False,
) -> None:
    """Show one request: why it was refused, or how it was settled and how long it took."""
    with AdminClient.from_environment() as client:
        found = client.get(f"/requests/{segment(request_id)}", options.given(team=team))
    if as_json:
        output.as_json(found)
        return
    timings, tried = found["timings"] or {}, found["tried"] or []
    left_out = ("object", "entry", "timings", "tried", "usage")
    fields = {name: value for name, value in found.items() if name not in left_out and value is not None}
    fields |= found["usage"] or {}
    fields |= {"tried": ", ".join(f"{one['upstream']}: {one['result']}" for one in tried)} if tried else {}
    fields |= {name.removesuffix("_ms"): duration(took) for name, took in timings.items()}
    output.fields(fields)
    bill = (found["entry"] or {}).get("bill")
    if bill is not None:
        output.bill(bill)


def _row(item: Json) -> tuple[Any, ...]:
    why = " ".join(str(item[name]) for name in ("scope", "limit", "code") if item[name]) if item["code"] else ""
    return item["at"], item["id"], item["key_id"], item["model"], item["outcome"], item["cost_usd"], why
