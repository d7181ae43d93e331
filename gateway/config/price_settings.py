"""[prices."<pattern>"]: the settings of a price row, and their conversion to the value with which costs are computed.

Amounts are decimal strings: rates in USD per million tokens, fees in USD. As everywhere, unknown keys are errors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.billing.money import parse_usd
from gateway.billing.price_row import Hours, Price, Steps, Tier, Tool
from gateway.billing.rates import INPUT_KINDS, KINDS, OUTPUT_KINDS, Layer
from gateway.config.types import Usd

_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00")
_FACTOR: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,9})?")
_STEP: Final = re.compile(r"[0-9]{1,10}")
_INPUT_KINDS: Final = frozenset(INPUT_KINDS)
_OUTPUT_KINDS: Final = frozenset(OUTPUT_KINDS)
_EVERY_DAY: Final = (1, 2, 3, 4, 5, 6, 7)

_UNITS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "second": ("second", 1),
        "minute": ("second", 60),
        "hour": ("second", 3600),
        "million_characters": ("character", 1_000_000),
        "page": ("page", 1),
        "search_unit": ("search_unit", 1),
    }
)
"""The units of the configuration: what is counted, and how many of it make one unit."""


def _factor(text: str) -> str:
    if not _FACTOR.fullmatch(text):
        raise ValueError('a factor is a decimal string in quotes from "0" to "9999", such as "1.1"')
    return text


def _step(text: str) -> str:
    if not _STEP.fullmatch(text):
        raise ValueError("a step is a number of input tokens, such as 272000")
    return text


def _day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError('a day is written as "2026-12-01"') from None
    return text


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise ValueError('a time of day (UTC) is written as "06:30"')
    return text


def _unit(text: str) -> str:
    if text not in _UNITS:
        raise ValueError(f"a unit is one of {', '.join(_UNITS)}")
    return text


Factor = Annotated[str, AfterValidator(_factor)]
Step = Annotated[str, AfterValidator(_step)]
Day = Annotated[str, AfterValidator(_day)]
TimeOfDay = Annotated[str, AfterValidator(_time)]
Unit = Annotated[str, AfterValidator(_unit)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Weekday = Annotated[int, Field(ge=1, le=7)]


class RatesSettings(BaseModel):
    """The token rates that a table states. Other rates stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Usd | None = None
    cached_input: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    cache_write_12h: Usd | None = None
    output: Usd | None = None
    reasoning: Usd | None = None
    citation: Usd | None = None
    input_audio: Usd | None = None
    cached_audio: Usd | None = None
    output_audio: Usd | None = None
    input_image: Usd | None = None
    cached_image: Usd | None = None
    output_image: Usd | None = None
    input_video: Usd | None = None
    output_video: Usd | None = None

    def rates(self) -> dict[str, int]:
        """Returns the stated rates in nano-USD per million tokens."""
        return {kind: parse_usd(rate) for kind in KINDS if (rate := getattr(self, kind)) is not None}


class LayerSettings(RatesSettings):
    """A table inside a row. `factor` applies to the token rates that the table does not state."""

    factor: Factor = "1"
    per_request: Usd | None = None
    per_call: dict[Name, Usd] = {}

    def layer(self) -> Layer:
        """Returns the table as billing's value."""
        return Layer(
            self.rates(),
            Fraction(self.factor),
            None if self.per_request is None else parse_usd(self.per_request),
            {tool: parse_usd(fee) for tool, fee in self.per_call.items()},
        )


class TierSettings(LayerSettings):
    """A service tier. `above` has its own steps, which replace the row's."""

    above: dict[Step, LayerSettings] = {}


class HoursSettings(LayerSettings):
    """Hours of the day (UTC) without `to`. They extend past midnight if `to` is earlier than `from`."""

    from_: TimeOfDay = Field(alias="from")
    to: TimeOfDay
    days: tuple[Weekday, ...] = Field(default=_EVERY_DAY, min_length=1)

    def hours(self) -> Hours:
        """Returns the hours as billing's value."""
        return Hours(_minutes(self.from_), _minutes(self.to), frozenset(self.days), self.layer())


class ToolSettings(RatesSettings):
    """The price of a hosted tool's tokens: the row of `model`, or the rates given here."""

    model: Name | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.model is None) == (not self.rates()):
            raise ValueError("a tool has either a model or rates of its own")
        return self


class RowSettings(LayerSettings):
    """One version of a price. A kind without its own rate has the rate of another kind: billing/rates.py, `KINDS`."""

    context_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    max_image_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    minimum_seconds: int = Field(default=0, ge=0, le=86_400)
    above: dict[Step, LayerSettings] = {}
    hours: tuple[HoursSettings, ...] = ()
    when: dict[Name, dict[Name, LayerSettings]] = {}
    tiers: dict[Name, TierSettings] = {}
    tools: dict[Name, ToolSettings] = {}
    per_image: dict[Name, Usd] = {}
    per_unit: dict[Unit, Usd] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _both_sides(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Requires rates for both input and output if a row prices tokens. Other mistakes are reported as well."""
        missing = [] if isinstance(data, BaseModel) else list(_missing_sides(data))
        details = [InitErrorDetails(type="missing", loc=(side,), input=data) for side in missing]
        try:
            row = handler(data)
        except ValidationError as error:
            if not details:
                raise
            others = error.errors(include_url=False)
            details += [
                InitErrorDetails(
                    type=PydanticCustomError(
                        other["type"], "{message}", {**(other.get("ctx") or {}), "message": other["msg"]}
                    ),
                    loc=other["loc"],
                    input=other["input"],
                )
                for other in others
            ]
        else:
            if not details:
                return row
        raise ValidationError.from_exception_data(cls.__name__, details)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if any(step.rates() for step in self.above.values()):
            for name, tier in self.tiers.items():
                if tier.rates() and not tier.above:
                    yield f"tiers.{name} states rates, and so do the row's steps: it needs steps (`above`) of its own"
        if len({_UNITS[unit][0] for unit in self.per_unit}) < len(self.per_unit):
            yield "per_unit states the same price twice: second, minute and hour are one unit"

    def _fingerprint(self) -> str:
        stated = self.model_dump(mode="json", exclude_unset=True)
        text = json.dumps(stated, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def row(self, version: str = "", versions: tuple[tuple[int, Price], ...] = ()) -> Price:
        """Returns the row as billing's value."""
        return Price(
            base=self.layer(),
            steps=_steps(self.above),
            hours=tuple(hours.hours() for hours in self.hours),
            when={
                name: {value: layer.layer() for value, layer in values.items()} for name, values in self.when.items()
            },
            tiers={
                name: Tier(tier.layer(), _steps(tier.above) if tier.above else None)
                for name, tier in self.tiers.items()
            },
            tools={name: Tool(tool.model or "", Layer(tool.rates())) for name, tool in self.tools.items()},
            per_image={name: parse_usd(fee) for name, fee in self.per_image.items()},
            per_unit={
                _UNITS[unit][0]: Fraction(parse_usd(fee), _UNITS[unit][1]) for unit, fee in self.per_unit.items()
            },
            minimum_seconds=self.minimum_seconds,
            context_tokens=self.context_tokens,
            max_output_tokens=self.max_output_tokens,
            max_image_tokens=self.max_image_tokens,
            versions=versions,
            version=version,
            fingerprint=self._fingerprint(),
        )


class PriceSettings(RowSettings):
    """The price of one model or of all models of a pattern.

    `from` has rows that replace it completely from a day (UTC) on.
    """

    from_: dict[Day, RowSettings] = Field(default={}, alias="from")

    def price(self) -> Price:
        """Returns the row with its versions."""
        versions = sorted(
            ((_midnight_ms(day), row.row(day)) for day, row in self.from_.items()), key=lambda version: version[0]
        )
        return self.row(versions=tuple(versions))


def _missing_sides(data: Any) -> Iterator[str]:
    """Yields "input" or "output" if a row states no rate of that side. Rows with only fees and units need none."""
    if not isinstance(data, Mapping):
        return
    other = any(name in data for name in ("per_request", "per_call", "per_image", "per_unit"))
    has_input, has_output = (not kinds.isdisjoint(data) for kinds in (_INPUT_KINDS, _OUTPUT_KINDS))
    if not has_input and not (other and not has_output):
        yield "input"
    if not has_output and not (other and not has_input):
        yield "output"


def _steps(above: Mapping[str, LayerSettings]) -> Steps:
    return tuple(sorted(((int(tokens), layer.layer()) for tokens, layer in above.items()), key=lambda step: step[0]))


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def _midnight_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
