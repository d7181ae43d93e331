"""`gateway notices`: the recipients, the sent and failed notices, and a test of a recipient."""

from __future__ import annotations

from typing import Annotated

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json
from gateway.cli.errors import CliError
from gateway.cli.signatures import Group, argument, option

app = Group(help="Notices: their recipients, what was sent, and a test.")
_Name = Annotated[str | None, argument("The recipient's name in the configuration; without it, all.")]


@app.command("list")
def list_(
    limit: Annotated[int, option("How many.", minimum=1, maximum=1000)] = 20, *, as_json: options.AsJson = False
) -> None:
    """List the recipients, the notices that wait, and the last ones that were sent or given up."""
    with AdminClient.from_environment() as client:
        found = client.get("/notices", {"limit": str(limit)})
    if as_json:
        output.as_json(found)
        return
    output.table(
        ("RECIPIENT", "TO", "TEAMS", "BUDGET %", "BALANCE BELOW USD", "DAYS LEFT"),
        [
            (
                one["name"],
                one["webhook"] or ", ".join(one["mail"]),
                ", ".join(one["teams"]),
                _line(one["budget_percent"]),
                _line(one["balance_below_usd"]),
                _line(one["days_left"]),
            )
            for one in found["recipients"]
        ],
        empty="No recipients are configured: see [recipients.NAME] in the example configuration.",
    )
    click.echo()
    output.table(
        ("ID", "STATE", "AT", "TO", "ATTEMPTS", "TEXT", "ERROR"),
        [
            (one["id"], one["state"], one["at"], one["recipient"], one["attempts"], one["text"], one["error"])
            for one in found["data"]
        ],
        empty="No notices.",
    )


@app.command("test")
def send_test(name: _Name = None, *, as_json: options.AsJson = False) -> None:
    """Send a test to one recipient or to all, and print the results."""
    with AdminClient.from_environment() as client:
        names = [name] if name else [one["name"] for one in client.get("/notices", {"limit": "1"})["recipients"]]
        done: list[Json] = [client.post("/notices/test", {"recipient": one}) for one in names]
    if as_json:
        output.as_json(done)
    else:
        rows = [(one["recipient"], "sent" if one["sent"] else "failed", one["error"]) for one in done]
        output.table(("RECIPIENT", "TEST", "ERROR"), rows, empty="No recipients are configured.")
    failed = [one["recipient"] for one in done if not one["sent"]]
    if failed:
        raise CliError(f"the test did not reach {', '.join(failed)}")


def _line(values: list[object]) -> str:
    return ", ".join(map(str, values))
