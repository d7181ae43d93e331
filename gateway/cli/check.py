"""Checks whether a configuration can be served, before anything listens.

load(path)         the settings, or one line per problem
check(path)        `gateway check`
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import click

from gateway.billing.money import format_usd
from gateway.billing.rates import MILLION
from gateway.cli.errors import CliError
from gateway.config.errors import Problem, SettingsError, Source
from gateway.config.positions import positions
from gateway.config.settings import Settings, load_settings
from gateway.config.upstream_settings import SIMULATOR
from gateway.protocol.model_spelling import folded
from gateway.protocol.wording import counted
from gateway.routing.model_patterns import specificity
from gateway.store.url import EMBEDDED, StoreUrl
from gateway.upstream.factory import build_transport

_T = TypeVar("_T")


def load(path: Path) -> Settings:
    """Reads the settings from a file and the environment. Raises CliError with everything that is wrong."""
    try:
        settings = load_settings(path)
    except SettingsError as error:
        raise CliError(*error.problems) from None
    if problems := asyncio.run(_faults_of(settings)):
        source = Source(str(path), positions(path.read_text(encoding="utf-8")))
        raise CliError(*source.lines(problems, os.environ))
    return settings


async def _faults_of(settings: Settings) -> list[Problem]:
    problems = []
    for name, upstream in settings.upstreams.items():
        if upstream.base_url == SIMULATOR:
            continue
        try:
            built = build_transport(upstream.transport_config(), upstream.transport)
        except (ValueError, OSError, ImportError) as error:
            problems.append(Problem(("upstreams", name), str(error)))
        else:
            await built.close()
    for name in ("traces", "metrics"):
        if getattr(settings.telemetry, name):
            problems += [Problem(("telemetry", name), fault) for fault in await _faults_of_telemetry(name)]
    return problems


async def _faults_of_telemetry(name: str) -> list[str]:
    from gateway.worker.parts import build_otel_metrics, build_tracing  # noqa: PLC0415 - see `_dangers`

    try:
        built = build_tracing() if name == "traces" else build_otel_metrics(1)
    except ImportError:
        return ['needs the extra "otel": pip install "openresponses-gateway[otel]"']
    except ValueError as error:
        return [f"the environment's OTEL_*: {error}"]
    await built.end()
    return []


def check(path: Path) -> None:
    """Prints what is wrong, or a summary of what would be served. Raises CliError."""
    settings = load(path)
    click.echo(f"{path}: OK")
    for line in [*_summary(settings), *_notes(settings), *_dangers(settings)]:
        click.echo(f"  {line}")


def _dangers(settings: Settings) -> list[str]:
    """Returns the dangers of the store's configuration. An embedded store has none."""
    if settings.store.url == EMBEDDED:
        return []
    from gateway.cli.store_check import dangers  # noqa: PLC0415 - a check without a store starts in half the time

    return [f"store      {danger}" for danger in dangers(settings)]


def _summary(settings: Settings) -> list[str]:
    server = settings.server
    lines = [
        f"listen     {server.host} port {server.port}, {counted(server.workers, 'worker')}",
        f"store      {_store(settings)}",
        f"admin API  {'on' if settings.admin.key else 'off: admin.key is not set'}",
        *(["metrics    on, to the endpoint in OTEL_EXPORTER_OTLP_ENDPOINT"] if settings.telemetry.metrics else []),
        *(["traces     on, to the endpoint in OTEL_EXPORTER_OTLP_ENDPOINT"] if settings.telemetry.traces else []),
    ]
    lines += [
        f"upstream   {name}: {upstream.base_url}, {counted(len(upstream.api_keys), 'key')}"
        for name, upstream in settings.upstreams.items()
    ]
    lines += [f"route      {route.model} -> {', '.join(route.upstreams)}" for route in settings.routes]
    lines += [f"alias      {alias} -> {model}" for alias, model in settings.aliases.items()]
    lines.append(f"prices     {', '.join(settings.prices) or 'none: every model is refused'}")
    if settings.prices and "*" not in settings.prices:
        lines.append("           models without a price are refused")
    return lines + _unknown_contexts(settings) + _unknown_outputs(settings)


def _unknown_contexts(settings: Settings) -> list[str]:
    """Names each model for which no setting bounds the input that a request does not show, such as files by URL."""
    if "reserve_input_tokens" in settings.limits.model_fields_set:  # the operator has set a reserve for every model
        return []
    routes = {folded(route.model): route for route in settings.routes}
    prices = {folded(pattern): price for pattern, price in settings.prices.items()}
    named = dict.fromkeys([*settings.prices, *routes, *settings.aliases.values()])
    unknown: dict[str, str] = {}
    for name in named:
        route, price = _found(name, routes), _found(name, prices)
        if route is None or price is None or route.reserve_input_tokens is not None:
            continue
        versions = (price, *price.from_.values())
        if any(row.context_tokens is None and any(row.rates().values()) for row in versions):
            unknown[folded(name)] = name
    if not unknown:
        return []
    line = (
        f"hold       {', '.join(unknown.values())}: neither context_tokens in the price nor reserve_input_tokens in "
        "the route: for files, links, prompts, tools and whatever else a request does not show, "
        f"{settings.limits.reserve_input_tokens} tokens are held"
    )
    return [line]


def _unknown_outputs(settings: Settings) -> list[str]:
    """Names the models whose longest answer only `context_tokens` bounds, which is far more than they write."""
    if settings.limits.send_max_output_tokens is True:
        return []
    routes = {folded(route.model): route for route in settings.routes}
    held_nano_usd = {}
    for name, price in settings.prices.items():
        route, tokens = _found(name, routes), price.context_tokens
        if route is None or tokens is None or price.max_output_tokens is not None:
            continue
        amount_nano_usd = price.rates().get("output", 0) * tokens // MILLION
        if route.default_max_output_tokens is None and route.send_max_output_tokens is not True and amount_nano_usd:
            held_nano_usd[name] = amount_nano_usd
    if not held_nano_usd:
        return []
    highest = max(held_nano_usd, key=held_nano_usd.__getitem__)
    line = (
        f"hold       {', '.join(held_nano_usd)}: no max_output_tokens in their prices: for a request that states no "
        f"bound, a whole context of output is held ({highest}: {format_usd(held_nano_usd[highest])} USD)"
    )
    return [line]


def _found(name: str, table: Mapping[str, _T]) -> _T | None:
    """Returns the most specific entry for a model or a pattern."""
    return next((table[pattern] for pattern in specificity(folded(name)) if pattern in table), None)


def _store(settings: Settings) -> str:
    """Returns where the store is, without its password."""
    if settings.store.url == EMBEDDED:
        return f"embedded, in {settings.store.data_dir}"
    url = StoreUrl.parse(settings.store.url)
    where = ", ".join(str(address) for address in url.addresses)
    kind = " ".join(filter(None, (url.mode.name.lower(), url.primary_name)))
    return f"{where} ({kind}, TLS)" if url.tls else f"{where} ({kind})"


def _notes(settings: Settings) -> list[str]:
    """Returns notes about settings that can be served but are probably not intended."""
    notes = []
    if settings.store.url != EMBEDDED and StoreUrl.parse(settings.store.url).password is not None:
        notes.append("store.url holds a password: set store.password to a reference, env:NAME or file:PATH")
    prices = {folded(pattern) for pattern in settings.prices}
    for route in settings.routes:
        pattern = folded(route.model)
        if not prices.isdisjoint(specificity(pattern)):
            continue
        priced = [
            model for model in settings.prices if pattern.endswith("*") and folded(model).startswith(pattern[:-1])
        ]
        refused = f"all but {', '.join(priced)} are refused" if priced else "it is refused"
        notes.append(f"the route {route.model!r} has no price: {refused}")
    return [f"note       {note}" for note in notes]
