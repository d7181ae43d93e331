"""`gateway upstreams`: the health that the workers see; disabling and enabling an upstream."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, segment
from gateway.cli.signatures import Group, argument

app = Group(help="Upstreams: their health, in and out of service.")
_Name = Annotated[str, argument("The upstream's name in the configuration.")]


@app.command("list")
def list_(*, as_json: options.AsJson = False) -> None:
    """List all upstreams."""
    with AdminClient.from_environment() as client:
        found = list(client.every("/upstreams"))
    if as_json:
        output.as_json(found)
    else:
        _table(found)


@app.command()
def disable(name: _Name, *, yes: options.Yes = False, as_json: options.AsJson = False) -> None:
    """Disable an upstream. Returns when no worker sends it new requests, or says which still do."""
    options.confirm(f"Send {name!r} no new requests?", yes=yes)
    _turn(name, "disable", as_json=as_json)


@app.command()
def enable(name: _Name, *, as_json: options.AsJson = False) -> None:
    """Enable an upstream again. Returns when every worker has."""
    _turn(name, "enable", as_json=as_json)


def _turn(name: str, verb: str, *, as_json: bool) -> None:
    with AdminClient.from_environment() as client:
        found = client.post(f"/upstreams/{segment(name)}/{verb}", {})
    if as_json:
        output.as_json(found)
    else:
        _table([found])
        output.require_all_workers(found)


def _table(upstreams: list[Json]) -> None:
    output.table(
        ("NAME", "STATE", "UNTIL", "BREAKERS", "RESTING KEYS", "CONNECTIONS", "URL"),
        [
            (
                upstream["name"],
                _state(upstream),
                upstream.get("until"),
                ", ".join(worker["breaker"] for worker in upstream["workers"]),
                sum(key["rests_s"] > 0 for worker in upstream["workers"] for key in worker["keys"]),
                sum(worker["open_connections"] for worker in upstream["workers"]),
                upstream["base_url"],
            )
            for upstream in upstreams
        ],
        empty="No upstreams.",
    )
    for upstream in upstreams:
        if note := _NOTES.get(upstream.get("state", "")):
            click.echo(f"\n{upstream['name']}: {note}")
        for one in upstream.get("models_affected", ()):
            click.echo(f"{upstream['name']}: {one['model']}: {_words(one['state'])} until {one['until']}")


_NOTES: Final = MappingProxyType(
    {
        "keys_rest": "its provider has refused each of its keys (401, 402); it is asked only where no other is left",
        "breaker_open": "it failed several times in a row; nothing is sent to it before the next try",
        "unreported": "no worker has reported it: the configuration may be newer than theirs",
    }
)


def _state(upstream: Json) -> str:
    if not upstream["enabled"]:
        return f"out since {upstream['disabled_at']} by {upstream['disabled_by']}"
    # A gateway of an earlier version says no more than whether it is healthy.
    return _words(upstream.get("state", "healthy" if upstream["healthy"] else "unhealthy"))


def _words(name: str) -> str:
    return name.replace("_", " ")
