"""The flags of init, serve, demo, simulate and check. Their implementations are imported only when they run.

The server's packages take a second and a half to import, and a client command should not wait for them.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway import __version__

_Config = Annotated[
    Path, typer.Option("--config", "-c", envvar="GATEWAY_CONFIG", help="The configuration.", show_default=True)
]
_CONFIG: Final = Path("gateway.toml")
_LARGEST_PORT: Final = 65_535
_GC_AT_START: Final = (
    # objects made by imports stay alive; collecting garbage among them took a seventh of the start (see app.py)
    200_000
)


NAMES: Final = frozenset({"init", "serve", "demo", "simulate", "check", "--version"})


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.callback()(_options)
    for command in (init, serve, demo, simulate, check):
        app.command()(command)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer defines the signature of a callback
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="A gateway by its name in profiles.toml.", envvar="GATEWAY_PROFILE")
    ] = None,
) -> None:
    del version  # its callback has handled it
    if profile is not None:
        os.environ["GATEWAY_PROFILE"] = profile


def init(
    config: _Config = _CONFIG,
    provider: Annotated[
        str | None, typer.Option(help="siraya, openai, openrouter, simulator, or the URL of an API.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The provider's key as a reference: env:NAME or file:PATH.")] = None,
    store: Annotated[str | None, typer.Option(help='"embedded", or the URL of a Redis or Valkey.')] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: defaults for what is not given.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write in the place of a file that is there.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a file with every setting, no more.")] = False,
) -> None:
    """Write a configuration to begin with, and an admin key. It asks for provider, key and store."""
    from gateway.cli import init  # noqa: PLC0415 - see the module's docstring

    if example:
        typer.echo(init.example(), nl=False)
        return
    init.run(config, init.Given(provider, key, store), ask=not yes, force=force)


def serve(
    config: _Config = _CONFIG,
    host: Annotated[str | None, typer.Option(help="Instead of server.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of server.port.", min=0, max=_LARGEST_PORT)] = None,
    workers: Annotated[int | None, typer.Option(help="Instead of server.workers.", min=1, max=64)] = None,
) -> None:
    """Run the gateway until Ctrl-C or SIGTERM."""
    gc.set_threshold(_GC_AT_START)
    from gateway.cli import serve  # noqa: PLC0415 - see the module's docstring

    serve.serve(config, host=host, port=port, workers=workers)


def demo(
    port: Annotated[
        int, typer.Option(help="Where to listen.", envvar="GATEWAY_SERVER__PORT", min=0, max=_LARGEST_PORT)
    ] = 8080,
    data_dir: Annotated[Path, typer.Option(help="Where all data is stored.", envvar="GATEWAY_STORE__DATA_DIR")] = Path(
        "data"
    ),
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 in a container.", envvar="GATEWAY_SERVER__HOST")
    ] = "127.0.0.1",
) -> None:
    """Run a gateway with a store, a team and a key, ready to try. With SIRAYA_API_KEY set it uses Siraya."""
    from gateway.cli import demo as demonstration  # noqa: PLC0415 - see the module's docstring

    demonstration.run(host, port, data_dir)


def simulate(
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 selects a free one.", min=0, max=_LARGEST_PORT)
    ] = 8081,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    *,
    post_only: Annotated[
        bool, typer.Option("--post-only", help="Keep nothing, and refuse whatever refers to something kept.")
    ] = False,
) -> None:
    """Run a provider that needs no key and no network, for tests and trials."""
    from gateway.cli import serve  # noqa: PLC0415 - see the module's docstring

    serve.simulate(host, port, post_only=post_only)


def check(config: _Config = _CONFIG) -> None:
    """Check a configuration: every error with its place, or a summary."""
    from gateway.cli import check  # noqa: PLC0415 - see the module's docstring

    check.check(config)
