"""Overrides of limits until a time, in the bodies of the admin API."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from gateway.accounts.overrides import Override
from gateway.api.admin.limit_models import Limits
from gateway.api.admin.moments import Moment, epoch_ms

MAX_OVERRIDES: Final = 50
_VALUE: Final = WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]})


class OverrideBody(BaseModel):
    """An override of a limit. `limit`: as in `limits`; null: no limit. After `until` the limit itself applies again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[Any, _VALUE]
    until: Moment


def _checked(overrides: dict[str, OverrideBody | None]) -> dict[str, OverrideBody | None]:
    """Checks the names and the values as those of limits."""
    values = Limits.model_validate({name: one.limit if one else None for name, one in overrides.items()}).changes()
    return {name: one and one.model_copy(update={"limit": values[name]}) for name, one in overrides.items()}


Overrides = Annotated[dict[str, OverrideBody | None], Field(max_length=MAX_OVERRIDES), AfterValidator(_checked)]
"""By the name of the limit; null ends one now."""


def override_changes(overrides: Overrides, *, by_operator: bool) -> dict[str, Override | None]:
    """Returns the overrides that were sent, as the ledger accepts them."""
    return {
        name: None if one is None else Override(one.limit, epoch_ms(one.until), by_operator)
        for name, one in overrides.items()
    }
