"""Every key in the store: its name, and how long it lives or why it has no TTL.

All keys of a team carry the hash tag `{team_id}`, so that a request touches one slot of a cluster.

    key                       type    life
    gw:teams                  zset    for ever: the list of teams, by creation
    gw:team-names             hash    for ever: name -> team id, so that a name is taken once
    gw:key-teams              hash    for ever: key id -> team id, so that a key is found by its id alone
    gw:admins                 zset    for ever: the list of admin keys, by creation
    gw:admin:<id>             hash    for ever: an admin key's scope and hashed secret
    gw:audit                  stream  trimmed at each entry to `admin.audit_max_entries`: every admin action
    gw:upstreams-off          hash    for ever: upstreams that an operator took out -> who and when
    gw:generation             string  for ever: counts configuration reloads; workers follow it
    gw:live                   stream  TTL of a minute: finished requests, while somebody watches
    gw:live-wanted            string  TTL of seconds: somebody watches
    gw:workers                zset    TTL of an hour: workers by when they were last heard of
    gw:worker:<id>            string  TTL of seconds: a worker's upstreams, as it sees them
    gw:session:<sha256>       string  TTL `admin.session_ttl_s`: who is signed in to the dashboard
    gw:sign-in:<sha256>       string  TTL of minutes: attempts to sign in from an address
    gw:{T}:audit              stream  trimmed as gw:audit: what was done to the team
    gw:{T}:refused            stream  TTL `ledger.refused_retention_s`: the last refusals
    gw:{T}:timings            stream  TTL of a day: what the last settled requests took
    gw:{T}:rotated:<sha256>   string  TTL `ledger.idempotency_ttl_s`: an admin's idempotency key of a rotation
    gw:{T}:team               hash    for ever: the team's settings and limits
    gw:{T}:keys               zset    for ever: the team's keys, by creation
    gw:{T}:key:<key_id>       hash    for ever: a key's settings, limits and hashed secrets
    gw:{T}:state              hash    for ever: balance and counters, the team's and its keys'; windows packed
    gw:{T}:holds              zset    emptied by settlement and the reaper: open holds by expiry
    gw:{T}:held               hash    emptied by settlement and the reaper: open holds' amounts
    gw:{T}:journal            stream  trimmed at each entry to `ledger.journal_retention_s`
    gw:{T}:done:<hold_id>     string  TTL `ledger.resolution_ttl_s`: how a hold ended; makes settlement idempotent
    gw:{T}:used:<hour>        hash    TTL `ledger.usage_retention_s`: roll-up by key and model
    gw:{T}:used-day:<day>     hash    the same for a day
    gw:{T}:seen:<hour>        hash    the same life: how requests ended, how long they took, why some were refused
    gw:{T}:seen-day:<day>     hash    the same for a day
    gw:{T}:mark:<sha256>      string  TTL `ledger.idempotency_ttl_s`: a client's Idempotency-Key
    gw:{T}:grant:<sha256>     string  TTL `ledger.idempotency_ttl_s`: an admin's idempotency key
    gw:made:<sha256>          string  TTL `ledger.idempotency_ttl_s`: the team that an admin's idempotency key made
    gw:{T}:made:<sha256>      string  the same for a key of the team
    gw:{T}:response:<sha256>  string  TTL `routing.response_ttl_s`: which upstream made a response
    gw:{canary....}:...       any     TTL of a minute: the start-up proof that the scripts enforce
    gw:{reaper}:lock          string  TTL of a third of `ledger.hold_ttl_s`: one worker reaps in each round
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

Step = Literal["hour", "day"]

TEAMS: Final = "gw:teams"
TEAM_NAMES: Final = "gw:team-names"
KEY_TEAMS: Final = "gw:key-teams"
ADMINS: Final = "gw:admins"
AUDIT: Final = "gw:audit"
UPSTREAMS_OFF: Final = "gw:upstreams-off"
GENERATION: Final = "gw:generation"
LIVE: Final = "gw:live"
LIVE_WANTED: Final = "gw:live-wanted"
WORKERS: Final = "gw:workers"
REAPER_LOCK: Final = "gw:{reaper}:lock"
STEP_MS: Final[Mapping[Step, int]] = MappingProxyType({"hour": 3_600_000, "day": 86_400_000})
"""How long a step is that figures are rolled up by."""
TIMINGS_MS: Final = 86_400_000

WITHOUT_TTL: Final = re.compile(
    r"gw:(teams|team-names|key-teams|admins|admin:\w+|audit|upstreams-off|generation"
    r"|\{(?!canary)\w+\}:(team|keys|key:\w+|state|holds|held|journal|audit))"
)  # each for the reason in the table above; a test fails on any other key that has no TTL


class TeamKeys(NamedTuple):
    """The keys of one team."""

    team_id: str

    def _name(self, rest: str) -> str:
        return f"gw:{{{self.team_id}}}:{rest}"

    def of_request(self, key_id: str) -> list[str]:
        """What each request touches: team, key, state, holds, held, journal."""
        prefix = f"gw:{{{self.team_id}}}:"
        return [
            prefix + "team",
            f"{prefix}key:{key_id}",
            prefix + "state",
            prefix + "holds",
            prefix + "held",
            prefix + "journal",
        ]

    @property
    def team(self) -> str:
        """The team's settings and limits."""
        return self._name("team")

    @property
    def keys(self) -> str:
        """The list of the team's keys."""
        return self._name("keys")

    @property
    def state(self) -> str:
        """Balance and counters."""
        return self._name("state")

    @property
    def holds(self) -> str:
        """Open holds by expiry."""
        return self._name("holds")

    @property
    def held(self) -> str:
        """Open holds' amounts."""
        return self._name("held")

    @property
    def journal(self) -> str:
        """Every movement."""
        return self._name("journal")

    def key(self, key_id: str) -> str:
        """One key's settings, limits and secrets."""
        return self._name(f"key:{key_id}")

    def resolution(self, hold_id: str) -> str:
        """How a hold ended."""
        return self._name(f"done:{hold_id}")

    def usage(self, step: Step, at_ms: int) -> str:
        """The roll-up of usage of the hour or the day (UTC) that a time (server's, ms) lies in."""
        return self._name(_rolled_up("used", step, at_ms))

    def outcomes(self, step: Step, at_ms: int) -> str:
        """The same for what was seen of requests."""
        return self._name(_rolled_up("seen", step, at_ms))

    def idempotency_key(self, key_id: str, idempotency_key: str) -> str:
        """A client's Idempotency-Key; each API key has its own."""
        return self._name(f"mark:{_digest(key_id, idempotency_key)}")

    def grant(self, idempotency_key: str) -> str:
        """An admin's idempotency key for a movement of credits."""
        return self._name(f"grant:{_digest(idempotency_key)}")

    def creation(self, idempotency_key: str) -> str:
        """The key that an admin's idempotency key made."""
        return self._name(f"made:{_digest(idempotency_key)}")

    @property
    def audit(self) -> str:
        """What admins did to the team."""
        return self._name("audit")

    @property
    def timings(self) -> str:
        """What the team's last settled requests took."""
        return self._name("timings")

    @property
    def refused(self) -> str:
        """The team's last refusals."""
        return self._name("refused")

    def rotated(self, idempotency_key: str) -> str:
        """An admin's idempotency key of a rotation."""
        return self._name(f"rotated:{_digest(idempotency_key)}")

    def response(self, response_id: str) -> str:
        """Which upstream made a response."""
        return self._name(f"response:{_digest(response_id)}")


def admin(admin_id: str) -> str:
    """An admin key's scope and hashed secret."""
    return f"gw:admin:{admin_id}"


def worker(worker_id: str) -> str:
    """A worker's upstreams, as it sees them."""
    return f"gw:worker:{worker_id}"


def session(token: str) -> str:
    """Who is signed in to the dashboard; a reader of the store learns no token."""
    return f"gw:session:{_digest(token)}"


def sign_in(host: str) -> str:
    """Attempts to sign in from an address."""
    return f"gw:sign-in:{_digest(host)}"


def creation(idempotency_key: str) -> str:
    """The team that an admin's idempotency key made."""
    return f"gw:made:{_digest(idempotency_key)}"


def _rolled_up(what: str, step: Step, at_ms: int) -> str:
    return f"{what}{'' if step == 'hour' else '-day'}:{at_ms // STEP_MS[step]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
