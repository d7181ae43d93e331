"""The meaning of a store's error replies, as data.

    the store cannot serve now   -> StoreUnavailable(reason)   an outage: the caller refuses, or spools and retries
    the store refused the call   -> StoreError                 a mistake in a script, a command or the configuration

`REPLY_FAULTS` maps the first word of an error reply to its meaning for the node that sent it, for an admission and for
a settlement. Words that are not in it (ERR, WRONGTYPE) are a StoreError: an admission is refused with 503.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final


class StoreError(Exception):
    """The store refused a call that it will always refuse: wrong arguments, a wrong type, a bad URL or password."""


class StoreUnavailable(Exception):
    """The store could not execute a call, and may be able to later.

    `reason` is one word, suitable as the label of a metric: `timeout`, `connect`, `lost`, `overload`, `protocol`,
    `closed`, `refused`, `sentinel`, `cluster`, or the first word of the store's error reply (`READONLY`, `OOM`, ...).
    `maybe_applied` is true if the command may have reached the store and only its reply was lost. Such a command may be
    repeated only if it is idempotent.
    """

    def __init__(self, reason: str, detail: str = "", *, maybe_applied: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.maybe_applied = maybe_applied

    def copy(self, *, maybe_applied: bool = False) -> "StoreUnavailable":
        """Returns the same fault for one more call. An exception that is raised twice would collect both tracebacks."""
        return StoreUnavailable(self.reason, self.detail, maybe_applied=maybe_applied)


class FaultScope(Enum):
    """What an error reply affects: this CALL, or the NODE, which cannot be used until it accepts writes again."""

    CALL = auto()
    NODE = auto()


@dataclass(frozen=True, slots=True)
class ReplyFault:
    """The meaning of an error reply. After any of them, nothing was applied.

    `repeats`: an admission is repeated a few times within the store's timeout; otherwise it is refused with 503 and
    Retry-After. A settlement is always spooled and sent again soon, and never dropped. `forbidden`: only an operator
    can change it. At the start it ends the gateway; later it is logged once.
    """

    scope: FaultScope
    repeats: bool = False
    forbidden: bool = False


REPLY_FAULTS: Final = MappingProxyType(
    {
        "READONLY": ReplyFault(FaultScope.NODE),  # a replica: demoted, or never the primary
        "LOADING": ReplyFault(FaultScope.NODE),
        "MASTERDOWN": ReplyFault(FaultScope.NODE),
        "OOM": ReplyFault(FaultScope.NODE),
        "MISCONF": ReplyFault(FaultScope.NODE),  # it cannot write to its disk
        "NOREPLICAS": ReplyFault(FaultScope.NODE),
        "CLUSTERDOWN": ReplyFault(FaultScope.NODE),
        "BUSY": ReplyFault(FaultScope.NODE),  # a script runs for too long
        "NOAUTH": ReplyFault(FaultScope.NODE, forbidden=True),  # the next connection sends the password again
        "NOPERM": ReplyFault(FaultScope.CALL, forbidden=True),  # this user may not run the command
        # a slot is being moved, and some of these keys have moved
        "TRYAGAIN": ReplyFault(FaultScope.CALL, repeats=True),
        "NOSCRIPT": ReplyFault(FaultScope.CALL, repeats=True),  # scripts were flushed again right after the load
        "MOVED": ReplyFault(FaultScope.CALL, repeats=True),  # after one redirect already
        "ASK": ReplyFault(FaultScope.CALL, repeats=True),
    }
)

# Redis 7 and Valkey 9 put the error code first if a command of a script fails. Older servers wrap it: "ERR Error
# running script (...): @user_script:1: -OOM command not allowed ...".
_WRAPPED: Final = re.compile(r"[\s:]-(" + "|".join(REPLY_FAULTS) + r")\b")
# If a script lacks a permission, the reply is a sentence without an error code (Valkey; Redis 7).
_NO_PERMISSION: Final = re.compile(r"ACL failure in script|The user executing the script can't ")
# The one outage without an error code: the reply to a new connection before it is closed.
_TOO_MANY_CLIENTS: Final = "ERR max number of clients"


def reply_fault(message: str) -> str | None:
    """Returns the word of `REPLY_FAULTS` that an error reply means, or None for a StoreError."""
    word = message.partition(" ")[0]
    if word in REPLY_FAULTS:
        return word
    if word == "ERR" and (wrapped := _WRAPPED.search(message)):
        return wrapped[1]
    return "NOPERM" if word == "ERR" and _NO_PERMISSION.search(message) else None


def is_fault_of_node(reason: str) -> bool:
    """Whether `StoreUnavailable.reason`, the first word of an error reply, takes the whole node out of service."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.scope is FaultScope.NODE


def is_forbidden(reason: str) -> bool:
    """Whether only an operator of the store can remove the cause of this error."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.forbidden


def repeats(reason: str) -> bool:
    """Whether an admission is repeated after this error."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.repeats


def is_fault_of_call(reason: str) -> bool:
    """Whether the error concerns one call alone, so that the next one may succeed."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.scope is FaultScope.CALL


def reply_exception(message: str) -> StoreUnavailable | StoreError:
    """Returns the exception for an error reply. Nothing was applied, because scripts check before they write."""
    if word := reply_fault(message):
        return StoreUnavailable(word, message)
    if message.startswith(_TOO_MANY_CLIENTS):
        return StoreUnavailable("connect", message)
    return StoreError(message)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A cluster node's reply for a slot that it does not serve: MOVED permanently, or ASK (`asking`) for this call."""

    slot: int
    host: str  # empty: the host that answered
    port: int
    asking: bool


def parse_redirect(message: str) -> Redirect | None:
    """Parses `MOVED 3999 127.0.0.1:6381` and `ASK 3999 127.0.0.1:6381`. Returns None for any other reply."""
    match message.split(" "):
        case ["MOVED" | "ASK" as word, slot, address]:
            host, _, port = address.rpartition(":")
            if slot.isdigit() and port.isdigit():
                return Redirect(int(slot), host.strip("[]"), int(port), asking=word == "ASK")
    return None
