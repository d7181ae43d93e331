"""What `gateway prices explain` reads: a configuration, a usage, a time. `proxy.price_explain` explains it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from gateway.cli.errors import REFUSED, USAGE, CliError
from gateway.config.errors import SettingsError
from gateway.config.settings import load_settings
from gateway.protocol.dialects.dialect import Json
from gateway.protocol.moments import parse_moment
from gateway.proxy.price_explain import NotExplainable, PriceQuestion
from gateway.proxy.price_explain import explain as explained


def explain(question: PriceQuestion, config: Path) -> dict[str, Any]:
    """Returns the cost of a usage under a configuration. Raises CliError."""
    try:
        return explained(question, load_settings(config).router())
    except SettingsError as error:
        raise CliError(*error.problems) from None
    except NotExplainable as error:
        raise CliError(str(error), exit_code=USAGE if error.is_usage else REFUSED) from None


def read_object(text: str, where: str) -> Json:
    """Returns the JSON object that a text is. Raises CliError."""
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise CliError(f"{where} is not JSON: {error}", exit_code=USAGE) from None
    if not isinstance(value, dict):
        raise CliError(f"{where} is not a JSON object", exit_code=USAGE)
    return value


def moment_ms(text: str | None) -> int:
    """Returns a date or time (UTC without an offset), or now, as milliseconds since 1970. Raises CliError."""
    if text is None:
        return time.time_ns() // 1_000_000
    try:
        return round(parse_moment(text, datetime.now(UTC)).timestamp() * 1000)
    except ValueError as error:
        raise CliError(f"--at {error}", exit_code=USAGE) from None
