"""What the reports of all workers say together about an upstream."""

from typing import Any

from gateway.api.admin.upstream_standing import standing_json

AT_MS = 1_796_000_000_000


def worker(*rests_s: float, breaker: str = "closed", probe_in_s: float = 0, **lists: Any) -> dict[str, Any]:
    seen = {
        "breaker": breaker,
        "probe_in_s": probe_in_s,
        "keys": [{"number": number, "rests_s": rests} for number, rests in enumerate(rests_s or (0.0,))],
        "models_down": [],
        "keys_limited": [],
    }
    return {"at_ms": AT_MS, "upstreams": {"u": seen | lists}}


def standing(*workers: dict[str, Any], enabled: bool = True) -> tuple[bool, str, str | None]:
    found = standing_json("u", workers, enabled=enabled)
    return found["healthy"], found["state"], found["until"]


def models(*workers: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = standing_json("u", workers, enabled=True)["models_affected"]
    return [(one["model"], one["state"], one["until"][17:23]) for one in found]


def test_an_upstream_is_healthy_if_some_worker_would_use_it() -> None:
    assert standing(worker()) == (True, "healthy", None)
    assert standing(worker(5, 0)) == (True, "healthy", None), "one of its keys is enough"
    assert standing(worker(5), worker(breaker="open", probe_in_s=1), worker()) == (True, "healthy", None)
    assert standing(worker(breaker="half_open")) == (True, "healthy", None), "the next request tries it"


def test_otherwise_the_state_says_why_not_and_until_when() -> None:
    base = standing(worker(1.5))[2]
    assert base is not None
    assert (standing(worker(60, 1.5)), base[17:23]) == ((False, "keys_rest", base), "21.500")
    assert standing(worker(60), worker(1.5)) == (False, "keys_rest", base), "the first worker that uses it again"
    assert standing(worker(breaker="open", probe_in_s=1.5)) == (False, "breaker_open", base)
    both = (worker(breaker="open", probe_in_s=0.5), worker(1.5))
    assert standing(*both) == (False, "keys_rest", base), "a resting key is used if no other is left"
    assert standing() == (False, "unreported", None)
    assert standing(worker(5), enabled=False) == (False, "out_of_service", None)


def test_models_are_named_as_long_as_one_worker_does_not_use_them() -> None:
    down = [{"model": "a", "breaker": "open", "probe_in_s": 2.0}, {"model": "b", "breaker": "half_open"}]
    limited = [{"number": number, "model": "c", "rests_s": 3.0 + number} for number in range(2)]
    one_key = [{"number": 0, "model": "d", "rests_s": 9.0}]
    first = worker(0, 0, models_down=down, keys_limited=[*limited, *one_key])
    assert models(first) == [("a", "breaker_open", "22.000"), ("c", "keys_rest", "23.000")]
    later = worker(keys_limited=[{"number": 0, "model": "c", "rests_s": 7.0}])
    assert models(first, later) == [("a", "breaker_open", "22.000"), ("c", "keys_rest", "27.000")]
    assert models(worker(4.0, 0, keys_limited=[{"number": 1, "model": "e", "rests_s": 6.0}])) == [
        ("e", "keys_rest", "24.000")
    ], "one key rests for all models, the other one for this model"
