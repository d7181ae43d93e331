"""The command line. It is thin: commands call the server's packages or the admin API.

    commands         the flags of init, serve, demo, simulate and check
    init             writes a configuration to begin with
    serve, demo      run the gateway; greeting is what the demo prints, simulated runs a provider beside it
    check            checks a configuration
    try_prompt       sends one request through the gateway: GATEWAY_API_KEY
    doctor           examines a staging gateway; doctor_patient is the team and the requests by which it does
    client           the client of the admin API: GATEWAY_URL and GATEWAY_ADMIN_KEY, or --profile (profiles)
    sign_in          signs in at an identity provider
    teams, team_changes, team_credits, kept_state, keys, key_changes, key_search, limits, usage, ledger,
    archive, reconcile, recent_requests, top, upstreams, notices, config, admin_keys
                     commands that use the admin API
    prices           how a cost comes about (price_explain); price_import: rows from the data of a package
                     (price_catalogue), as TOML (price_toml), and where a file differs (price_comparison)
    options, output  shared flags; tables and JSON
    errors           how a command fails

Exit codes: 0 success; 1 refused or impossible, with one line on standard error that says why; 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Final, NamedTuple

import typer

from gateway.cli import commands
from gateway.cli.errors import CliError
from gateway.cli.options import as_options


class _Part(NamedTuple):
    """One command or group of commands: a name in a module of this package. Modules in `also` add commands to it."""

    module: str
    name: str = "app"
    also: tuple[str, ...] = ()


_PARTS: Final = MappingProxyType(
    {
        "teams": _Part("teams", also=("team_changes",)),
        "keys": _Part("keys", also=("key_changes", "key_search")),
        "credits": _Part("team_credits"),
        "state": _Part("kept_state"),
        "ledger": _Part("ledger"),
        "reconcile": _Part("reconcile", "reconcile"),
        "limits": _Part("limits"),
        "requests": _Part("recent_requests"),
        "upstreams": _Part("upstreams"),
        "notices": _Part("notices"),
        "config": _Part("config"),
        "admins": _Part("admin_keys"),
        "usage": _Part("usage", "usage"),
        "audit": _Part("admin_keys", "audit"),
        "whoami": _Part("admin_keys", "whoami"),
        "login": _Part("sign_in", "login"),
        "logout": _Part("sign_in", "logout"),
        "prices": _Part("prices", also=("price_import",)),
        "top": _Part("top", "top"),
        "try": _Part("try_prompt", "try_"),
        "doctor": _Part("doctor", "doctor"),
    }
)
"""What follows `gateway`, beside the commands in commands.py."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """Returns the command line for these arguments.

    Only the part that they name is imported, because the import of all parts takes longer than most commands. Help and
    mistakes need all parts.
    """
    app = typer.Typer(
        name="gateway",
        help="A self-hosted OpenResponses gateway: local keys, limits and credits in front of an LLM provider.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    commands.register(app)
    if arguments and arguments[0] in commands.NAMES:
        return app
    for name in arguments[:1] if arguments and arguments[0] in _PARTS else _PARTS:
        part = _PARTS[name]
        found = getattr(import_module(f"gateway.cli.{part.module}"), part.name)
        for module in part.also:
            import_module(f"gateway.cli.{module}")
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def main() -> None:
    """Runs the command line and exits."""
    app = build(sys.argv[1:])
    try:
        app()
    except CliError as error:
        field = getattr(error, "field", "")
        for line in error.lines:
            sys.stderr.write(f"gateway: {as_options(line, field, app, sys.argv[1:]) if field else line}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # the exit code that shells use for a program ended by Ctrl-C
    except BrokenPipeError:
        sys.stderr.close()  # for example `gateway teams list | head`: nobody reads the rest
        sys.exit(1)
