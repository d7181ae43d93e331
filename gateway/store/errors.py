"""What a failing store says, as data.

    the store cannot serve now   -> StoreUnavailable(reason)   an outage: refuse, or spool and come back
    the store refused the call   -> StoreError                 a mistake in a script, a command or the configuration

`REPLY_FAULTS` maps the word that opens an error reply to what it means for the node that sent it.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final


class StoreError(Exception):
    """The store refused a call that it will always refuse: wrong arguments, wrong type, no permission, a bad URL."""


class StoreUnavailable(Exception):
    """The store did not do what was asked, and later it may.

    `reason` is one word, fit for a metric's label: `timeout`, `connect`, `lost`, `overload`, `protocol`, `closed`,
    `refused`, `sentinel`, `cluster`, or the word that opened the store's error reply (`READONLY`, `OOM`, ...).
    `maybe_applied` is true when the command may have reached the store and only its reply was lost: repeat it only if
    it is idempotent.
    """

    def __init__(self, reason: str, detail: str = "", *, maybe_applied: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.maybe_applied = maybe_applied

    def copy(self, *, maybe_applied: bool = False) -> "StoreUnavailable":
        """The same fault for one more call: an exception that is raised twice would gather both tracebacks."""
        return StoreUnavailable(self.reason, self.detail, maybe_applied=maybe_applied)


class FaultScope(Enum):
    """How far an error reply reaches: this CALL alone, or the NODE, which is of no use until it takes writes again."""

    CALL = auto()
    NODE = auto()


REPLY_FAULTS: Final = MappingProxyType(
    {
        "READONLY": FaultScope.NODE,  # a replica: demoted, or never the primary
        "LOADING": FaultScope.NODE,
        "MASTERDOWN": FaultScope.NODE,
        "OOM": FaultScope.NODE,
        "MISCONF": FaultScope.NODE,  # cannot write to its disk
        "NOREPLICAS": FaultScope.NODE,
        "CLUSTERDOWN": FaultScope.NODE,
        "BUSY": FaultScope.NODE,  # a script runs for too long
        "TRYAGAIN": FaultScope.CALL,  # a slot is moving, and has moved some of these keys
        "NOSCRIPT": FaultScope.CALL,  # flushed again right after it was loaded
        "MOVED": FaultScope.CALL,  # still, after one redirect
        "ASK": FaultScope.CALL,
    }
)

# Redis 7 and Valkey 9 keep the code in front when a script's own command fails; older servers wrap it:
# "ERR Error running script (...): @user_script:1: -OOM command not allowed ...".
_WRAPPED: Final = re.compile(r"[\s:]-(" + "|".join(REPLY_FAULTS) + r")\b")
# The one outage that has no code of its own: the answer to a connection, before it is closed.
_TOO_MANY_CLIENTS: Final = "ERR max number of clients"


def reply_fault(message: str) -> str | None:
    """The word of `REPLY_FAULTS` that an error reply stands for, or None when it is a StoreError."""
    word = message.partition(" ")[0]
    if word in REPLY_FAULTS:
        return word
    if word == "ERR" and (wrapped := _WRAPPED.search(message)):
        return wrapped[1]
    return None


def reply_exception(message: str) -> StoreUnavailable | StoreError:
    """The exception for an error reply, which says that nothing was applied: scripts check before they write."""
    if word := reply_fault(message):
        return StoreUnavailable(word, message)
    if message.startswith(_TOO_MANY_CLIENTS):
        return StoreUnavailable("connect", message)
    return StoreError(message)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A cluster node's answer for a slot that it does not serve: MOVED for good, or ASK (`asking`) for this call."""

    slot: int
    host: str  # empty: the host that answered
    port: int
    asking: bool


def parse_redirect(message: str) -> Redirect | None:
    """Reads `MOVED 3999 127.0.0.1:6381` and `ASK 3999 127.0.0.1:6381`; None for any other reply."""
    match message.split(" "):
        case ["MOVED" | "ASK" as word, slot, address]:
            host, _, port = address.rpartition(":")
            if slot.isdigit() and port.isdigit():
                return Redirect(int(slot), host.strip("[]"), int(port), asking=word == "ASK")
    return None
