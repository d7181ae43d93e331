"""The flags of init, serve, demo, simulate and check. Their implementations are imported only when they run.

The server's packages take a second and a half to import, and a client command should not wait for them.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Annotated, Final

import click

from gateway import __version__
from gateway.cli.signatures import Group, option, parameters_of

_Config = Annotated[Path, option("The configuration.", "--config", "-c", envvar="GATEWAY_CONFIG")]
_CONFIG: Final = Path("gateway.toml")
_MAX_PORT: Final = 65_535
_GC_AT_START: Final = 200_000  # imported objects stay alive; searching them for garbage took a seventh of the start


def register(root: Group) -> None:
    """Adds the commands, and the options that stand before any command, to the command line."""
    root.callback = _before_any
    root.params = parameters_of(_before_any)
    click.version_option(__version__, message="%(version)s", help="Print the version and exit.")(root)
    root.params.append(
        click.Option(
            ["--show-completion"],
            help="Print a script by which the shell completes commands and options.",
            type=click.Choice(("bash", "fish", "zsh")),
            is_eager=True,
            expose_value=False,
            callback=_print_completion,
        )
    )
    for command in (init, serve, demo, simulate, check):
        root.command()(command)


def _print_completion(context: click.Context, _option: click.Parameter, shell: str | None) -> None:
    if shell is None:
        return
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only this option needs it

    written = get_completion_class(shell)
    if written is not None:
        click.echo(written(context.command, {}, "gateway", "_GATEWAY_COMPLETE").source())
    context.exit()


def _before_any(
    *,
    profile: Annotated[str | None, option("A gateway by its name in profiles.toml.", envvar="GATEWAY_PROFILE")] = None,
) -> None:
    if profile is not None:
        os.environ["GATEWAY_PROFILE"] = profile


def init(
    config: _Config = _CONFIG,
    provider: Annotated[str | None, option("siraya, openai, openrouter, simulator, or the URL of an API.")] = None,
    key: Annotated[str | None, option("The provider's key as a reference: env:NAME or file:PATH.")] = None,
    store: Annotated[str | None, option('"embedded", or the URL of a Redis or Valkey.')] = None,
    *,
    yes: Annotated[bool, option("Ask nothing: defaults for what is not given.", "--yes", "-y")] = False,
    force: Annotated[bool, option("Write in the place of a file that is there.", "--force")] = False,
    example: Annotated[bool, option("Print a file with every setting, no more.", "--example")] = False,
) -> None:
    """Write a configuration to begin with, and an admin key. It asks for provider, key and store."""
    from gateway.cli import init  # noqa: PLC0415 - see the module's docstring

    if example:
        click.echo(init.example(), nl=False)
        return
    init.run(config, init.Given(provider, key, store), interactive=not yes, force=force)


def serve(
    config: _Config = _CONFIG,
    host: Annotated[str | None, option("Instead of server.host.")] = None,
    port: Annotated[int | None, option("Instead of server.port.", minimum=0, maximum=_MAX_PORT)] = None,
    workers: Annotated[int | None, option("Instead of server.workers.", minimum=1, maximum=64)] = None,
) -> None:
    """Run the gateway until Ctrl-C or SIGTERM."""
    gc.set_threshold(_GC_AT_START)
    from gateway.cli import serve  # noqa: PLC0415 - see the module's docstring

    serve.serve(config, host=host, port=port, workers=workers)


def demo(
    port: Annotated[
        int, option("Where to listen.", envvar="GATEWAY_SERVER__PORT", minimum=0, maximum=_MAX_PORT)
    ] = 8080,
    data_dir: Annotated[Path, option("Where all data is stored.", envvar="GATEWAY_STORE__DATA_DIR")] = Path("data"),
    host: Annotated[
        str, option("The address to listen on; 0.0.0.0 in a container.", envvar="GATEWAY_SERVER__HOST")
    ] = "127.0.0.1",
) -> None:
    """Run a gateway with a store, a team and a key, ready to try. With SIRAYA_API_KEY set it uses Siraya."""
    from gateway.cli import demo as demonstration  # noqa: PLC0415 - see the module's docstring

    demonstration.run(host, port, data_dir)


def simulate(
    port: Annotated[int, option("The port to listen on; 0 selects a free one.", minimum=0, maximum=_MAX_PORT)] = 8081,
    host: Annotated[str, option("Where to listen.")] = "127.0.0.1",
    *,
    post_only: Annotated[
        bool, option("Keep nothing, and refuse whatever refers to something kept.", "--post-only")
    ] = False,
) -> None:
    """Run a provider that needs no key and no network, for tests and trials."""
    from gateway.cli import serve  # noqa: PLC0415 - see the module's docstring

    serve.simulate(host, port, post_only=post_only)


def check(config: _Config = _CONFIG) -> None:
    """Check a configuration: every error with its place, or a summary."""
    from gateway.cli import check  # noqa: PLC0415 - see the module's docstring

    check.check(config)
