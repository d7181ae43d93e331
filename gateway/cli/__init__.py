"""The command line. It is thin: commands call the server's packages or the admin API.

    commands         the flags of serve, demo, simulate and check
    serve, demo      run the gateway; greeting is what the demo prints
    check            checks a configuration
    try_prompt       sends one request through the gateway: GATEWAY_API_KEY
    client           the client of the admin API: GATEWAY_URL and GATEWAY_ADMIN_KEY, or --profile (profiles)
    teams, team_changes, team_credits, keys, key_changes, limits, usage, ledger, recent_requests, top, upstreams,
    config, admin_keys
                     commands that use the admin API
    options, output  shared flags; tables and JSON
    errors           how a command fails

Exit codes: 0 success; 1 refused or impossible, with one line on standard error that says why; 2 wrong usage.
"""

from __future__ import annotations

import sys

import typer

from gateway.cli import (
    admin_keys,
    commands,
    config,
    key_changes,
    limits,
    recent_requests,
    team_changes,
    top,
    try_prompt,
    upstreams,
)
from gateway.cli.errors import CliError
from gateway.cli.keys import app as keys
from gateway.cli.ledger import app as ledger
from gateway.cli.team_credits import app as credits_
from gateway.cli.teams import app as teams
from gateway.cli.usage import usage

app = typer.Typer(
    name="gateway",
    help="A self-hosted OpenResponses gateway: local keys, limits and credits in front of an LLM provider.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands.register(app)
app.add_typer(teams, name="teams")
app.add_typer(keys, name="keys")
app.add_typer(credits_, name="credits")
app.add_typer(ledger, name="ledger")
for name, group in (
    ("limits", limits.app),
    ("requests", recent_requests.app),
    ("upstreams", upstreams.app),
    ("config", config.app),
    ("admins", admin_keys.app),
):
    app.add_typer(group, name=name)
for command in (usage, admin_keys.audit, admin_keys.whoami, top.top):
    app.command()(command)
app.command("try")(try_prompt.try_)
key_changes.register(keys)
team_changes.register(teams)


def main() -> None:
    """Runs the command line and exits."""
    try:
        app()
    except CliError as error:
        for line in error.lines:
            sys.stderr.write(f"gateway: {line}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # the exit code that shells use for a program ended by Ctrl-C
    except BrokenPipeError:
        sys.stderr.close()  # for example `gateway teams list | head`: nobody reads the rest
        sys.exit(1)
