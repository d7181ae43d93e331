"""`gateway upstreams`: health as the workers see it; disable an upstream, and enable it again."""

from __future__ import annotations

from typing import Annotated

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
        output.obedience(found)


def _table(upstreams: list[Json]) -> None:
    output.table(
        ("NAME", "STATE", "BREAKERS", "RESTING KEYS", "CONNECTIONS", "URL"),
        [
            (
                upstream["name"],
                _state(upstream),
                ", ".join(worker["breaker"] for worker in upstream["workers"]),
                sum(key["rests_s"] > 0 for worker in upstream["workers"] for key in worker["keys"]),
                sum(worker["open_connections"] for worker in upstream["workers"]),
                upstream["base_url"],
            )
            for upstream in upstreams
        ],
        empty="No upstreams.",
    )


def _state(upstream: Json) -> str:
    if not upstream["enabled"]:
        return f"out since {upstream['disabled_at']} by {upstream['disabled_by']}"
    return "healthy" if upstream["healthy"] else "unhealthy"
