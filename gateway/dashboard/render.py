"""The templates and the functions that they may call. All output is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.accounts.limit_names import LIMITS, period_in_words, read_limit_name
from gateway.reporting.latency_buckets import duration

_LABELS: Final[Mapping[str, str]] = {
    "rpm": "requests per minute",
    "tpm": "tokens per minute",
    "concurrency": "concurrent requests",
    "max_output_tokens": "output tokens per request",
    "queue_s": "seconds that a request may wait for its turn",
    "queue_length": "requests that may wait",
}
_UNITS: Final[Mapping[str, str]] = {"budget_usd": "USD", "budget_tokens": "tokens"}


def limit_label(name: str | None) -> str:
    """Returns the name of a limit for people: "USD a week". Other names become words."""
    read = read_limit_name(name or "")
    if read is None:
        return words(name)
    label = _LABELS.get(read.base) or f"{_UNITS[read.base]} {period_in_words(read)}"
    label = f"{label} for {read.pattern}" if read.pattern else label
    return f"{label}, each end user" if read.each else label


def usd(amount: str | Decimal | None) -> str:
    """Formats an amount for reading: cents from one dollar up, three digits below, "" for None."""
    if amount is None:
        return ""
    value = Decimal(amount)
    if abs(value) >= 1:
        return f"{'-' if value < 0 else ''}${abs(value):,.2f}"
    if value == 0:
        return "$0"
    places = 3 - value.adjusted() - 1
    text = f"{abs(value):.{places}f}".rstrip("0")
    return f"{'-' if value < 0 else ''}${text}"


def exact(amount: str | Decimal) -> str:
    """Formats an amount exactly, without an exponent."""
    return format(Decimal(amount), "f")


def exact_usd(amount: str | Decimal) -> str:
    """Formats an amount exactly, with separators for thousands: 1234.5 -> 1,234.50."""
    whole, _, rest = exact(amount).partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}.{rest.ljust(2, '0')}"


def count(number: int | None) -> str:
    """Formats a number with separators for thousands."""
    return "" if number is None else f"{number:,}"


def short(number: int) -> str:
    """Formats a large number in three digits: 1,234 -> 1.23k."""
    value, unit = Decimal(number), ""
    for larger in ("k", "M", "B", "T"):
        if abs(value) < 1000:  # noqa: PLR2004 - three digits
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}" if unit else str(number)


def moment(iso: str | None) -> str:
    """Formats an ISO time of the API to the second, in UTC."""
    return "" if iso is None else iso[:19].replace("T", " ")


def words(name: str | None) -> str:
    """Formats a name of the API as words: "upstream_cut" -> "upstream cut"."""
    return (name or "").replace("_", " ")


def typed_limits(form: Mapping[str, str]) -> dict[str, str]:
    """Returns the limits that were typed into a form, so that the form can show them again."""
    listed = {name: form.get(f"limits.{name}", "") for name in LIMITS}
    return listed | {"others": form.get("limits", ""), "had": form.get("limits.had", "")}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gateway.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        usd=usd,
        exact=exact,
        exact_usd=exact_usd,
        count=count,
        short=short,
        moment=moment,
        words=words,
        duration=duration,
    )
    environment.filters["typed_limits"] = typed_limits
    environment.filters["limit_label"] = limit_label
    environment.globals["LIMITS"] = LIMITS
    return environment


ENVIRONMENT: Final = _environment()


def html(template: str, status: int = 200, **values: Any) -> Response:
    """Renders a template."""
    return Response(ENVIRONMENT.get_template(template).render(**values), status, media_type="text/html")
