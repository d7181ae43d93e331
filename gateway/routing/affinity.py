"""Sends what belongs together to the same place: rendezvous hashing (Thaler and Ravishankar, 1998). Pure.

Every place gets a score from the session and its own name, and the places are asked in the order of their scores. So
the turns of a session go to one upstream and one key, whose prompt cache and encrypted items they need. Where that one
fails the session goes to its second, and comes back. A place that is added or removed moves only its own sessions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar

Affinity = Literal["session", "api_key", "none"]
"""`session`: what names the request's session, where something does. `api_key`: else the caller's API key."""

_T = TypeVar("_T")
_SCALE: Final = 2**64


def ordered(session: str, places: Iterable[tuple[_T, int]], name: Callable[[_T], str]) -> tuple[_T, ...]:
    """The places by score, the highest first. Each comes with its weight; one of 0 is left out."""
    scored = [(_score(session, name(place), weight), name(place), place) for place, weight in places if weight > 0]
    scored.sort(key=lambda one: one[:2], reverse=True)
    return tuple(place for _, _, place in scored)


def _score(session: str, name: str, weight: int) -> float:
    digest = hashlib.blake2b(f"{session}\0{name}".encode("utf-8", "replace"), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 1) / (_SCALE + 1)  # in (0, 1): weighted by -w / ln(u)
    return -weight / math.log(uniform)
