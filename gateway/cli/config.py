"""`gateway config`: show the configuration in force, check a file, reload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import click

from gateway.cli import options, output
from gateway.cli.client import AdminClient
from gateway.cli.signatures import Group, option

app = Group(help="Routes, prices and upstreams as in force; reload.")

_CONFIG: Final = Path("gateway.toml")


@app.command("show")
def show_(*, as_json: options.AsJson = False) -> None:
    """Show the configuration in force, and which configuration each worker runs."""
    with AdminClient.from_environment() as client:
        found = client.get("/config")
    if as_json:
        output.as_json(found)
        return
    if found["problem"]:
        click.echo(f"The last reload failed, and changed nothing: {found['problem']}\n")
    output.table(
        ("UPSTREAM", "BASE URL", "KEYS"),
        [(name, upstream["base_url"], upstream["api_keys"]) for name, upstream in found["upstreams"].items()],
        empty="no upstreams",
    )
    click.echo()
    output.table(
        ("MODEL", "UPSTREAMS"), [(r["model"], ", ".join(r["upstreams"])) for r in found["routes"]], empty="no routes"
    )
    click.echo()
    if found["aliases"]:
        output.table(("ALIAS", "MODEL"), list(found["aliases"].items()), empty="")
        click.echo()
    output.table(
        ("PRICE OF", "INPUT", "CACHED INPUT", "OUTPUT"),
        [(model, p["input"], p["cached_input"], p["output"]) for model, p in found["prices"].items()],
        empty="no prices",
    )
    click.echo()
    output.table(
        ("WORKER", "HOST", "PID", "LOADED", "GENERATION", "RUNNING", "SOCKETS", "PROBLEM"),
        [
            (
                w["worker"],
                w["host"],
                w["pid"],
                w["loaded_at"],
                w["generation"],
                w["running"],
                w["sockets"],
                w["problem"],
            )
            for w in found["workers"]
        ],
        empty="no worker has reported yet",
    )


@app.command()
def check(
    config: Annotated[Path, option("The configuration.", "--config", "-c", envvar="GATEWAY_CONFIG")] = _CONFIG,
) -> None:
    """Check a file on this machine, as `gateway check` does."""
    from gateway.cli import check  # noqa: PLC0415 - a client command does not wait for the server's packages

    check.check(config)


@app.command()
def reload(*, as_json: options.AsJson = False) -> None:
    """Reload the configuration, and return when every worker has. A bad file changes nothing; the answer says why."""
    with AdminClient.from_environment() as client:
        done = client.post("/config/reload", {})
    if as_json:
        output.as_json(done)
        return
    output.fields(
        {
            "in force": ", ".join(done["changed"]) or "nothing has changed",
            "needs a restart": ", ".join(done["needs_restart"]) or "nothing",
            "generation": done["generation"],
        }
    )
    output.require_all_workers(done)
