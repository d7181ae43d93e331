"""The meaning of a failing store's replies, as data.

    the store cannot serve now   -> StoreUnavailable(reason)   an outage: refuse, or spool and retry
    the store refused the call   -> StoreError                 a mistake in a script, a command or the configuration

`REPLY_FAULTS` maps the word that opens an error reply to what it means for the node that sent it, for an admission
and for a settlement. Words that are not there (ERR, WRONGTYPE) are a StoreError: an admission is refused with 503.
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
    """What an error reply means. Nothing was applied, whatever it says.

    `repeats`: an admission is sent again, a few times within the store's timeout; else it is refused with 503, and
    told when to come back. A settlement is spooled and sent again soon, whatever the word: none is ever dropped.
    `forbidden`: only an operator can change it. At the start it ends the gateway, later it is said once in the log.
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
        "MISCONF": ReplyFault(FaultScope.NODE),  # cannot write to its disk
        "NOREPLICAS": ReplyFault(FaultScope.NODE),
        "CLUSTERDOWN": ReplyFault(FaultScope.NODE),
        "BUSY": ReplyFault(FaultScope.NODE),  # a script runs for too long
        "NOAUTH": ReplyFault(FaultScope.NODE, forbidden=True),  # the next connection gives the password again
        "NOPERM": ReplyFault(FaultScope.CALL, forbidden=True),  # this user may not do this
        "TRYAGAIN": ReplyFault(FaultScope.CALL, repeats=True),  # a slot is moving, and has moved some of these keys
        "NOSCRIPT": ReplyFault(FaultScope.CALL, repeats=True),  # flushed again right after it was loaded
        "MOVED": ReplyFault(FaultScope.CALL, repeats=True),  # still, after one redirect
        "ASK": ReplyFault(FaultScope.CALL, repeats=True),
    }
)

# Redis 7 and Valkey 9 put the error code first if a command of a script fails. Older servers wrap it: "ERR Error
# running script (...): @user_script:1: -OOM command not allowed ...".
_WRAPPED: Final = re.compile(r"[\s:]-(" + "|".join(REPLY_FAULTS) + r")\b")
# How a script says that a command of it needs a permission: by a sentence, without an error code (Valkey; Redis 7).
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
    """Whether what `StoreUnavailable.reason` says takes the whole node out of service, as an error reply."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.scope is FaultScope.NODE


def is_forbidden(reason: str) -> bool:
    """Whether only an operator of the store can change it."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.forbidden


def repeats(reason: str) -> bool:
    """Whether an admission that met it is sent again soon."""
    fault = REPLY_FAULTS.get(reason)
    return fault is not None and fault.repeats


def is_fault_of_call(reason: str) -> bool:
    """Whether it says something about one call alone: the next one may pass."""
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
