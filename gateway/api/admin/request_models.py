"""The bodies that the admin API accepts. Every field has bounds, and an unknown field is an error.

Money is a decimal string in USD and becomes nano-USD. Times are ISO 8601 with a zone, days (UTC), or words such as
tomorrow. In a PATCH, an absent field stays as it is, and `null` removes a limit or an expiry, or ends an override.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    model_validator,
)

from gateway.accounts.accounts import Changes
from gateway.accounts.authority import param_of
from gateway.accounts.entities import RESTRICTIONS, is_restriction
from gateway.accounts.periods import MAX_ZONE_LENGTH, zone_of
from gateway.accounts.rotation import MAX_OVERLAP_S
from gateway.api.admin.limit_models import NO_LIMITS, Limits, PositiveUsd, Usd
from gateway.api.admin.moments import Moment, epoch_ms
from gateway.api.admin.override_models import Overrides, override_changes
from gateway.protocol.operations import checked_names
from gateway.routing.model_patterns import is_pattern

MAX_NAME: Final = 64
MAX_MODELS: Final = 500
MAX_ARCHIVED: Final = 20_000
MAX_RELEASED: Final = 100
_FIRST_ANCHOR, _LAST_ANCHOR = date(1970, 1, 1), date(2199, 12, 31)


def _name(text: str) -> str:
    if text != text.strip() or not text.isprintable() or "/" in text or text in (".", ".."):
        raise ValueError("a name is printable, has no '/', and no space at its ends")
    return text


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError('a model is an exact id, "provider/*" or "*"')
    return text


def _operations(names: list[str]) -> list[str]:
    return list(checked_names(names))


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_name)]
Pattern = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_pattern)]
Models = Annotated[list[Pattern], Field(max_length=MAX_MODELS)]
Operations = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64), AfterValidator(_operations)]
Flag = Annotated[bool, Strict()]


_RESTRICTION_FIELDS: Final[Mapping[str, str]] = MappingProxyType({param_of(name): name for name in RESTRICTIONS})


def _holdable(param: str) -> str:
    name = _RESTRICTION_FIELDS.get(param, param.removeprefix("limits."))
    if param not in (*_RESTRICTION_FIELDS, f"limits.{name}") or not is_restriction(name):
        raise ValueError(f"one of {', '.join(_RESTRICTION_FIELDS)}, or a limit such as limits.rpm")
    return name


Held = Annotated[str, AfterValidator(_holdable)]
"""A restriction that an operator can set on a key, by its name in this API; becomes the name of the stored field."""


def _zone(name: str) -> str:
    zone_of(name)
    return "" if name == "UTC" else name


def _anchor(day: date) -> date:
    if not _FIRST_ANCHOR <= day <= _LAST_ANCHOR:
        raise ValueError(f"must lie between {_FIRST_ANCHOR} and {_LAST_ANCHOR}")
    return day


Zone = Annotated[str, Field(min_length=1, max_length=MAX_ZONE_LENGTH), AfterValidator(_zone)]
Anchor = Annotated[date, AfterValidator(_anchor)]
TIMEZONE: Final = Field(default=None, description="A name of the IANA database, such as Asia/Kolkata; null: UTC")
ANCHOR: Final = Field(default=None, description="A day on which weeks, months and quarters of budgets begin")


def example(value: dict[str, Any]) -> ConfigDict:
    """Returns a model configuration that adds an example to the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [value]})


class Body(BaseModel):
    """A JSON body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OVERRIDES: Final[Any] = Field(default={}, description="Limits for a while, by name; null ends one now")
CUT_AT_CAP: Final = Field(default=False, description="End a stream where it would exceed its hold")


def _text(value: str | date | None) -> str:
    return str(value or "")


class _Account(Body):
    models: Models = Field(default=[], description="Exact ids, provider/* or *; empty: all")
    operations: Operations = Field(default=[], description="Operations such as chat.completions, images.*; empty: all")
    expires_at: Moment | None = None
    limits: Limits = NO_LIMITS

    def changes(self, *, by_operator: bool = True) -> Changes:
        """Returns the fields that were sent, as the ledger accepts them. `by_operator`: the lead of a team did not."""
        given = self.model_fields_set
        expires_ms = None
        if "expires_at" in given:
            expires_ms = epoch_ms(self.expires_at) if self.expires_at else 0
        return Changes(
            name=getattr(self, "name", None) if "name" in given else None,
            status=getattr(self, "status", None) if "status" in given else None,
            models=tuple(dict.fromkeys(self.models)) if "models" in given else None,
            operations=tuple(self.operations) if "operations" in given else None,
            limits=self.limits.changes(),
            overrides=override_changes(getattr(self, "overrides", {}), by_operator=by_operator),
            expires_ms=expires_ms,
            metered=getattr(self, "metered", None) if "metered" in given else None,
            timezone=_text(getattr(self, "timezone", None)) if "timezone" in given else None,
            anchor=_text(getattr(self, "anchor", None)) if "anchor" in given else None,
            cut_at_cap=getattr(self, "cut_at_cap", None) if "cut_at_cap" in given else None,
            release=tuple(getattr(self, "release", ())),
            resume="paused" in given,
        )


class NewTeam(_Account):
    """POST /teams."""

    model_config = example(
        {"name": "search", "credits_usd": "25.00", "limits": {"rpm": 600, "budget_usd_month": "500"}}
    )

    name: Name
    credits_usd: PositiveUsd = 0
    metered: Flag = True
    timezone: Zone | None = TIMEZONE
    anchor: Anchor | None = ANCHOR


class TeamPatch(_Account):
    """PATCH /teams/{team}."""

    model_config = example(
        {
            "limits": {"rpm": 1200, "budget_usd_day": None},
            "overrides": {"tpm": {"limit": 500000, "until": "2026-12-24"}},
        }
    )

    name: Name = ""
    status: Literal["active", "disabled"] = "active"
    metered: Flag = True
    timezone: Zone | None = TIMEZONE
    anchor: Anchor | None = ANCHOR
    overrides: Overrides = OVERRIDES
    paused: Annotated[Literal[False], Field(description="false lets a paused team go on")] = False


class NewKey(_Account):
    """POST /teams/{team}/keys; `name` is the key's label."""

    model_config = example({"name": "indexer", "models": ["openai/*"], "limits": {"rpm": 60}})

    name: Name
    cut_at_cap: Flag = CUT_AT_CAP


class KeyPatch(_Account):
    """PATCH /teams/{team}/keys/{key}. A revoked key stays revoked."""

    model_config = example({"status": "disabled"})

    name: Name = ""
    status: Literal["active", "disabled", "revoked"] = "active"
    cut_at_cap: Flag = CUT_AT_CAP
    overrides: Overrides = OVERRIDES
    release: list[Held] = Field(
        default=[], max_length=MAX_RELEASED, description="What operators set and the team's lead may lift from now on"
    )


class Movement(Body):
    """POST /teams/{team}/credits. A grant is greater than 0; an adjustment has either sign.

    With `expires_at`, a grant is gone then, and an adjustment changes the credits that expire then.
    """

    model_config = example({"kind": "grant", "amount_usd": "25.00", "note": "November", "expires_at": "2026-12-31"})

    kind: Literal["grant", "adjust"]
    amount_usd: Usd
    note: str = Field(default="", max_length=500)
    expires_at: Moment | None = None


class ArchivedPart(Body):
    """POST /teams/{team}/journal/archived: the oldest entries, as a file has them; `digest`: SHA-256 of their lines."""

    model_config = example({"through": "1796054489107-0", "entries": 20000, "digest": "5d2c" * 16})

    through: str = Field(max_length=40, pattern=r"^\d{1,15}-\d{1,15}$")
    entries: Annotated[int, Strict(), Field(ge=1, le=MAX_ARCHIVED)]
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class NewRotation(Body):
    """POST .../keys/{key}/rotate and .../admin-keys/{id}/rotate: how long the present secrets keep working.

    0 ends them at once.
    """

    model_config = example({"overlap_s": 86400})

    overlap_s: Annotated[int, Strict(), Field(ge=0, le=MAX_OVERLAP_S)] = 86_400


class NewAdminKey(Body):
    """POST /admin-keys. `team` (name or id) is required for the scope "team" and not accepted otherwise."""

    model_config = example({"name": "lead of search", "scope": "team", "team": "search"})

    name: Name
    scope: Literal["all", "read", "team"]
    team: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = None
    expires_at: Moment | None = None

    @model_validator(mode="after")
    def _team_fits(self) -> Self:
        if (self.scope == "team") is (self.team is None):
            raise ValueError('team must be given for the scope "team", and for no other')
        return self
