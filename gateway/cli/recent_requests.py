"""`gateway requests`: the last requests, refused ones included, and the outcome of one request."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment
from gateway.cli.signatures import Group, argument, option
from gateway.reporting.latency_buckets import duration

app = Group(help="Requests: the last ones, why one was refused, how one was settled.")
_Team = Annotated[str | None, option("One team; without it, all.")]
_MAX_DETAIL_CHARACTERS: Final = 60
"""Characters of a detail in a list: `gateway requests show` has all of it."""
_SHOWN_APART: Final = ("object", "team_id", "key_id", "entry", "timings", "tried", "usage", "tags")


@app.command("list")
def list_(  # noqa: PLR0913 - the command's flags
    *,
    team: _Team = None,
    key: Annotated[str | None, option("A key's id, team/label, or with --team its label.")] = None,
    model: Annotated[str | None, option('An exact id or "provider/*".')] = None,
    status: Annotated[str | None, option("Such as 429, or 4xx for all of them.")] = None,
    outcome: Annotated[str | None, option("Such as completed, client_left or refused.")] = None,
    identifier: Annotated[str | None, option("The beginning of a request's id.", "--id")] = None,
    since: Annotated[str | None, option("ISO 8601, such as 2026-11-01.", "--from")] = None,
    until: Annotated[str | None, option("ISO 8601, not included.", "--to")] = None,
    limit: Annotated[int, option("How many.", minimum=1, maximum=1000)] = 20,
    as_json: options.AsJson = False,
) -> None:
    """List the last requests, newest first."""
    if key is not None and "/" in key:
        team, _, key = key.rpartition("/")
    asked = options.given(
        team=team,
        key=key,
        model=model,
        status=status,
        outcome=outcome,
        id=identifier,
        to=until,
        limit=str(limit),
    )
    asked |= {"from": since} if since else {}
    with AdminClient.from_environment() as client:
        found = list(itertools.islice(client.every("/requests", asked), limit))
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("AT", "ID", "KEY", "MODEL", "STATUS", "OUTCOME", "IN", "OUT", "TOOK", "COST USD", "WHY"),
        [_row(item) for item in found],
        empty="No requests.",
    )


@app.command("show")
def show_(
    request_id: Annotated[
        str, argument("The x-request-id of an answer, a response's id, or the upstream's request id.")
    ],
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
    fields = {name: value for name, value in found.items() if name not in _SHOWN_APART and value is not None}
    for name in ("team", "key"):
        identifier = found[f"{name}_id"]
        fields[name] = f"{found[name]} ({identifier})" if found[name] else identifier
    tried = [f"{one['upstream']}: {one['result']} after {duration(one['took_ms'])}" for one in found["tried"] or []]
    fields |= {"tried": "; ".join(tried)} if tried else {}
    tags = [f"{name}={value}" for name, value in (found.get("tags") or {}).items()]
    fields |= {"tags": ", ".join(tags)} if tags else {}
    output.fields({name.replace("_", " "): value for name, value in (fields | (found["usage"] or {})).items()})
    if found["timings"]:
        click.echo()
        output.table(("STEP", "ENDED AFTER", "TOOK"), _steps(found["timings"]), empty="")
    bill = (found["entry"] or {}).get("bill")
    if bill is not None:
        click.echo()
        output.bill(bill)


def _steps(timings: dict[str, float]) -> list[tuple[str, str, str]]:
    rows, before = [], 0.0
    for name, at in timings.items():
        rows.append((name.removesuffix("_ms").replace("_", " "), duration(at), duration(at - before)))
        before = at
    return rows


def _row(item: Json) -> tuple[Any, ...]:
    why = " ".join(str(item[name]) for name in ("scope", "limit", "code") if item[name]) if item["code"] else ""
    if detail := item["detail"]:
        detail = detail if len(detail) <= _MAX_DETAIL_CHARACTERS else f"{detail[: _MAX_DETAIL_CHARACTERS - 1]}…"
        why = f"{why}: {detail}" if why else detail
    usage, took = item["usage"] or {}, (item["timings"] or {}).get("total_ms")
    return (
        (item["at"] or "")[:19],
        item["id"],
        f"{item['team'] or item['team_id']}/{item['key'] or item['key_id'] or '-'}",
        item["model"],
        item["status"],
        item["outcome"],
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        None if took is None else duration(took),
        item["cost_usd"],
        why,
    )
