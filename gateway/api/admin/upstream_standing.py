"""What the reports of all workers say together about an upstream: whether it is asked, and if not, until when. Pure.

| state            | means                                                                      | until             |
|------------------|----------------------------------------------------------------------------|-------------------|
| `healthy`        | some worker would use it now                                               | -                 |
| `keys_rest`      | each key was refused (401, 402): it is asked only if no other is left      | the first is used |
| `breaker_open`   | it failed several times in a row: nothing is sent to it                    | the next try      |
| `out_of_service` | an operator has taken it out                                               | -                 |
| `unreported`     | no worker has reported it                                                  | -                 |

The worker that can use it soonest decides. Models that fail or whose keys rest are listed beside it, as long as one
worker does not use them, because the upstream may be healthy for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.protocol.timestamps import iso_time

_HEALTHY: Final = "healthy"
_ORDER: Final = (_HEALTHY, "keys_rest", "breaker_open")
"""From the state that is used first to the one that is used last."""


class Standing(NamedTuple):
    """A state, and when it ends, in ms; 0 if that is not known."""

    state: str
    until_ms: int = 0


def standing_json(name: str, reports: Sequence[Mapping[str, Any]], *, enabled: bool) -> dict[str, Any]:
    """Returns the fields of an upstream that say whether it is asked. `reports`: those of workers that have it."""
    seen = [(int(report["at_ms"]), report["upstreams"][name]) for report in reports]
    found = Standing("unreported") if not seen else min((_of_worker(at, one) for at, one in seen), key=_sort_key)
    if not enabled:
        found = Standing("out_of_service")
    models: dict[str, Standing] = {}
    for at_ms, worker in seen:
        for model, one in _of_models(at_ms, worker):
            models[model] = max(models.get(model, one), one, key=_sort_key)
    return {
        "healthy": found.state == _HEALTHY,
        "state": found.state,
        "until": _time(found),
        "models_affected": [
            {"model": model, "state": one.state, "until": _time(one)} for model, one in sorted(models.items())
        ],
    }


def _of_worker(at_ms: int, worker: Mapping[str, Any]) -> Standing:
    if worker["breaker"] == "open":
        return Standing("breaker_open", at_ms + _ms(worker["probe_in_s"]))
    rests_s = min((key["rests_s"] for key in worker["keys"]), default=0)
    return Standing("keys_rest", at_ms + _ms(rests_s)) if rests_s else Standing(_HEALTHY)


def _of_models(at_ms: int, worker: Mapping[str, Any]) -> Iterator[tuple[str, Standing]]:
    """Yields the models that a worker does not use at an upstream that it uses for others."""
    for down in worker["models_down"]:
        if down["breaker"] == "open":
            yield down["model"], Standing("breaker_open", at_ms + _ms(down["probe_in_s"]))
    limited: dict[str, dict[int, float]] = {}
    for one in worker["keys_limited"]:
        limited.setdefault(one["model"], {})[one["number"]] = one["rests_s"]
    for model, rests in limited.items():
        waits = [max(key["rests_s"], rests.get(key["number"], 0)) for key in worker["keys"]]
        if min(waits, default=0) > 0:
            yield model, Standing("keys_rest", at_ms + _ms(min(waits)))


def _sort_key(one: Standing) -> tuple[int, int]:
    return _ORDER.index(one.state), one.until_ms


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _time(one: Standing) -> str | None:
    return iso_time(one.until_ms) if one.until_ms else None
