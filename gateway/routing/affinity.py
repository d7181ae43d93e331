"""Sends the requests of a session to one upstream and key: rendezvous hashing (Thaler and Ravishankar, 1998). Pure.

Each place (an upstream or a key) gets a score from the session and its own name, and the places are asked in the order
of their scores. So all turns of a session use one prompt cache, and one key can read their encrypted items. If that
place fails, the session goes to the second one until the first one is back. Adding or removing a place moves only its
own sessions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar

Affinity = Literal["session", "api_key", "none"]
"""`session`: the session that the request names, if it names one. `api_key`: otherwise the caller's API key."""

_T = TypeVar("_T")
_SCALE: Final = 2**64


def ordered(session: str, places: Iterable[tuple[_T, int]], name: Callable[[_T], str]) -> tuple[_T, ...]:
    """Returns the places by score, the highest first. Each place has a weight; a place of weight 0 is left out."""
    scored = [(_score(session, name(place), weight), name(place), place) for place, weight in places if weight > 0]
    scored.sort(key=lambda one: one[:2], reverse=True)
    return tuple(place for _, _, place in scored)


def _score(session: str, name: str, weight: int) -> float:
    digest = hashlib.blake2b(f"{session}\0{name}".encode("utf-8", "replace"), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 1) / (_SCALE + 1)  # in (0, 1): weighted by -w / ln(u)
    return -weight / math.log(uniform)
