"""Limits in the bodies of the admin API: their names, and the bounds of their values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from gateway.accounts.limit_hints import why_no_limit
from gateway.accounts.limit_names import in_order, read_limit_name
from gateway.billing.money import MAX_NANO_USD, MoneyError, format_usd, parse_usd

MAX_QUEUE_S: Final = 600
MAX_QUEUE_LENGTH: Final = 1000


def _usd(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('money is a decimal string in USD, such as "1.25"')  # noqa: TRY004 - pydantic reports ValueError
    try:
        return parse_usd(value)
    except MoneyError as error:
        raise ValueError(str(error)) from None


def _not_negative(amount: int) -> int:
    if amount < 0:
        raise ValueError(f"must lie between 0 and {format_usd(MAX_NANO_USD)} USD")
    return amount


_MONEY_SCHEMA: Final = WithJsonSchema({"type": "string", "examples": ["1.25"], "description": "USD, a decimal string"})
Usd = Annotated[int, BeforeValidator(_usd), _MONEY_SCHEMA]
PositiveUsd = Annotated[int, BeforeValidator(_usd), AfterValidator(_not_negative), _MONEY_SCHEMA]
Count = Annotated[int, Strict(), Field(ge=0, le=10**9)]
Positive = Annotated[int, Strict(), Field(ge=1, le=10**9)]
Tokens = Annotated[int, Strict(), Field(ge=0, le=10**11)]
Volume = Annotated[int, Strict(), Field(ge=0, le=10**15)]

_MANY: Final[Mapping[str, TypeAdapter[dict[str, Any]]]] = MappingProxyType(
    {
        "rpm": TypeAdapter(dict[str, Count | None]),
        "tpm": TypeAdapter(dict[str, Tokens | None]),
        "concurrency": TypeAdapter(dict[str, Count | None]),
        "budget_usd": TypeAdapter(dict[str, PositiveUsd | None]),
        "budget_tokens": TypeAdapter(dict[str, Volume | None]),
    }
)
"""The bounds of limits whose names are not fields of `Limits`."""


class Limits(BaseModel):
    """Limits of a team or a key. null removes one; a limit that lets no request through is refused (feasibility.py).

    There are more limits than those listed: budgets of the last hours or days, such as budget_usd_24h or
    budget_tokens_7d; limits for the models of a pattern, such as rpm@openai/* or budget_usd_day@openai/gpt-5; and
    limits of each end user, such as end_user.rpm or end_user.budget_usd_day.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    rpm: Count | None = None
    tpm: Tokens | None = None
    concurrency: Count | None = None
    max_output_tokens: Positive | None = None
    budget_usd_hour: PositiveUsd | None = None
    budget_usd_day: PositiveUsd | None = None
    budget_usd_week: PositiveUsd | None = None
    budget_usd_month: PositiveUsd | None = None
    budget_usd_quarter: PositiveUsd | None = None
    budget_usd_total: PositiveUsd | None = None
    budget_tokens_hour: Volume | None = None
    budget_tokens_day: Volume | None = None
    budget_tokens_week: Volume | None = None
    budget_tokens_month: Volume | None = None
    budget_tokens_quarter: Volume | None = None
    budget_tokens_total: Volume | None = None
    queue_s: Annotated[int, Strict(), Field(ge=0, le=MAX_QUEUE_S)] | None = None
    queue_length: Annotated[int, Strict(), Field(ge=0, le=MAX_QUEUE_LENGTH)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _others(cls, given: object) -> object:
        """Checks the values of limits whose names have numbers in them."""
        if not isinstance(given, dict):
            return given
        checked: dict[str, Any] = {}
        for name, value in given.items():
            if name in cls.model_fields:
                continue
            read = read_limit_name(name)
            if read is None:
                why = ValueError(f"there is no such setting{why_no_limit(name)}")
                wrong = InitErrorDetails(type="value_error", loc=(name,), input=value, ctx={"error": why})
                raise ValidationError.from_exception_data(cls.__name__, [wrong])
            checked |= _MANY[read.base].validate_python({name: value})
        return {**given, **checked}

    def changes(self) -> dict[str, int | None]:
        """Returns the limits that were sent."""
        return {name: getattr(self, name) for name in in_order(self.model_fields_set)}


NO_LIMITS: Final = Limits()
