"""Templates, and the few functions that they may call. Everything is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.reporting.latency_buckets import duration

WHY: Final[Mapping[str, str]] = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "concurrency": "requests at once",
    "max_output_tokens": "output tokens of a request",
    "budget_usd_hour": "USD an hour",
    "budget_usd_day": "USD a day",
    "budget_usd_month": "USD a month",
    "budget_usd_total": "USD in all",
    "budget_tokens_hour": "tokens an hour",
    "budget_tokens_day": "tokens a day",
    "budget_tokens_month": "tokens a month",
    "budget_tokens_total": "tokens in all",
}
"""Limits, as people call them."""


def usd(amount: str | Decimal | None) -> str:
    """An amount for reading: cents from a dollar up, three digits below. "" for none."""
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
    """An amount to the last digit, without an exponent."""
    return format(Decimal(amount), "f")


def count(number: int | None) -> str:
    """A number with its thousands apart."""
    return "" if number is None else f"{number:,}"


def short(number: int) -> str:
    """A large number in three digits: 1,234 -> 1.23k."""
    value, unit = Decimal(number), ""
    for larger in ("k", "M", "B", "T"):
        if abs(value) < 1000:  # noqa: PLR2004 - three digits
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}" if unit else str(number)


def moment(iso: str | None) -> str:
    """An ISO time of the API, to the second, in UTC."""
    return "" if iso is None else iso[:19].replace("T", " ")


def words(name: str | None) -> str:
    """A name of the API as words: "upstream_cut" -> "upstream cut"."""
    return (name or "").replace("_", " ")


def typed_limits(form: Mapping[str, str]) -> dict[str, str]:
    """The limits that were typed into a form, for the form to show again."""
    return {name: form.get(f"limits.{name}", "") for name in WHY}


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("gateway.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(usd=usd, exact=exact, count=count, short=short, moment=moment, words=words, duration=duration)
    made.filters["typed_limits"] = typed_limits
    made.globals["WHY"] = WHY
    return made


ENVIRONMENT: Final = _environment()


def html(template: str, status: int = 200, **values: Any) -> Response:
    """A page."""
    return Response(ENVIRONMENT.get_template(template).render(**values), status, media_type="text/html")
