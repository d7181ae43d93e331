"""Every key in the store: its name, its content, and its lifetime or the reason why it has none.

All keys of a team carry the hash tag `{team_id}`, so that a request touches one slot of a cluster.

    key                       type    lifetime and content
    gw:teams                  zset    permanent: the list of teams, by creation
    gw:team-names             hash    permanent: name -> team id, so that names are unique
    gw:{gw:team-names}:changes  hash  emptied at the end of each change, or by its repair: names that are being moved
    gw:key-teams              hash    permanent: key id -> team id, so that a key is found by its id alone
    gw:admins                 zset    permanent: the list of admin keys, by creation
    gw:admin:<id>             hash    permanent; TTL `oidc.lasts_s` if from a sign-in: an admin's scope, hashed secret
    gw:audit                  stream  trimmed by each entry to `admin.audit_max_entries`: every admin action
    gw:upstreams-off          hash    permanent: disabled upstreams -> who disabled them and when
    gw:sealing-key            string  permanent: seals compaction items, which clients may keep for any time
    gw:generation             string  permanent: counts configuration reloads; workers follow it
    gw:live                   stream  TTL of a minute: finished requests, while an operator watches
    gw:live-wanted            string  TTL of seconds: set while an operator watches
    gw:workers                zset    TTL of an hour: workers by the time of their last report
    gw:worker:<id>            string  TTL of seconds: the state of a worker's upstreams
    gw:session:<sha256>       string  TTL `admin.session_ttl_s`: who is signed in to the dashboard
    gw:sign-in:<sha256>       string  TTL of minutes: attempts to sign in from an address
    gw:{T}:audit              stream  trimmed like gw:audit: the actions on one team
    gw:{T}:refused            stream  TTL `ledger.refused_retention_s`: the last refusals
    gw:{T}:timings            stream  TTL of a day: durations of the parts of the last settled requests
    gw:{T}:rotated:<sha256>   string  TTL `ledger.idempotency_ttl_s`: the idempotency key of a rotation
    gw:{T}:team               hash    permanent: the team's settings and limits, the ends of its current periods
    gw:{T}:keys               zset    permanent: the team's keys, by creation
    gw:{T}:key:<key_id>       hash    permanent: a key's settings, limits and hashed secrets
    gw:{T}:state              hash    permanent: balance, credits that expire, and counters of the team and its keys;
                                      windows are packed
    gw:{T}:holds              zset    emptied by settlement and expiry: open holds by their expiry
    gw:{T}:held               hash    emptied by settlement and expiry: amounts of the open holds, what they took of
                                      credits that expire, and which meters count them
    gw:{T}:queue              hash    TTL of a minute: requests that wait in the queue
    gw:{T}:end-users          hash    TTL of a week after the longest period that counts: counters of the limits of each
                                      end user; at most `limits.max_end_users`
    gw:{T}:journal            stream  trimmed by each entry to `ledger.journal_retention_s`
    gw:{T}:archived           hash    permanent: the sums of journal entries that were moved to files
    gw:{T}:words              hash    permanent, bounded: repeated texts of journal entries, by number
    gw:{T}:ended:<week>       hash    TTL `ledger.resolution_ttl_s` after its week: index of the journal by the ids of
                                      holds and responses; makes settlement idempotent
    gw:{T}:done:<hold_id>     string  TTL of days: how a hold ended, written by older versions
    gw:{T}:used:<hour>        hash    TTL `ledger.usage_retention_s`: usage of an hour by key and model
    gw:{T}:used-day:<day>     hash    the same for a day, by the date in the team's time zone
    gw:{T}:attributed:<day>   hash    TTL `attribution.retention_s`: usage of a day by tag and end user; bounded
    gw:{T}:seen:<hour>        hash    TTL `ledger.usage_retention_s`: outcomes, durations and refusals of an hour
    gw:{T}:seen-day:<day>     hash    the same for a day
    gw:{T}:mark:<sha256>      string  TTL `ledger.idempotency_ttl_s`: a client's Idempotency-Key
    gw:{T}:grant:<sha256>     string  TTL `ledger.idempotency_ttl_s`: the idempotency key of a movement of credits
    gw:made:<sha256>          string  TTL `ledger.idempotency_ttl_s`: the team created with an idempotency key
    gw:{T}:made:<sha256>      string  the same for a key of the team
    gw:{T}:response:<sha256>  string  TTL of days: which upstream makes a response whose request runs; older versions
                                      also wrote it for ended requests
    gw:{T}:responses          hash    TTL `state.ttl_s`: stored responses, packed
    gw:{T}:response-entries   hash    the same: the parent and the size of each
    gw:{T}:response-use       zset    the same: when each was last used
    gw:{T}:response-items     hash    the same: output items by id, for references
    gw:{T}:conversation:<id>  hash    TTL `state.ttl_s`: a conversation's items and metadata
    gw:{T}:conversation-use   zset    the same: when each was last changed
    gw:{T}:conversation-sizes hash    the same: the size of each in bytes
    gw:{T}:background         hash    TTL of the longest waiting and running time: background responses that have not
                                      ended
    gw:{T}:events:<id>        stream  the same: their events; without `store` also for ten minutes afterwards
    gw:{T}:temporary:<id>     string  the same: a background response that is not stored
    gw:{background}:teams     zset    TTL of a day: teams with background responses, by the end of their leases
    gw:{notices}:sender       string  TTL of seconds: the worker that sends notices
    gw:{notices}:marks        zset    TTL of 35 days: thresholds that were noticed
    gw:{notices}:waiting      hash    TTL of a week: notices that have not been sent yet
    gw:{notices}:due          zset    the same: when each is due
    gw:{notices}:ended        stream  TTL of 35 days: the last `notices.max_ended` that were sent or abandoned
    gw:{canary....}:...       any     TTL of a minute: the check at the start that the scripts enforce limits
    gw:{reaper}:leases        zset    TTL of a day: workers by the end of their leases
    gw:{reaper}:lock          string  TTL of a third of `ledger.hold_ttl_s`: one worker expires holds per round
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
NAME_CHANGES: Final = "gw:{gw:team-names}:changes"
"""Its hash tag is the whole name of TEAM_NAMES, so that both are in one slot of a cluster."""
KEY_TEAMS: Final = "gw:key-teams"
CREATING: Final = "?"
"""A suffix of the team's id in KEY_TEAMS while the key is being created."""
ADMINS: Final = "gw:admins"
AUDIT: Final = "gw:audit"
UPSTREAMS_OFF: Final = "gw:upstreams-off"
GENERATION: Final = "gw:generation"
SEALING_KEY: Final = "gw:sealing-key"
LIVE: Final = "gw:live"
LIVE_WANTED: Final = "gw:live-wanted"
WORKERS: Final = "gw:workers"
REAPER_LOCK: Final = "gw:{reaper}:lock"
LEASES: Final = "gw:{reaper}:leases"
BACKGROUND_TEAMS: Final = "gw:{background}:teams"
NOTICE_SENDER: Final = "gw:{notices}:sender"
NOTICE_MARKS: Final = "gw:{notices}:marks"
NOTICES_WAITING: Final = "gw:{notices}:waiting"
NOTICES_DUE: Final = "gw:{notices}:due"
NOTICES_ENDED: Final = "gw:{notices}:ended"
STEP_MS: Final[Mapping[Step, int]] = MappingProxyType({"hour": 3_600_000, "day": 86_400_000})
"""The length of the periods of rollups."""
WEEK_MS: Final = 604_800_000
"""The length of the period that one index of the journal covers."""
TIMINGS_MS: Final = 86_400_000

WITHOUT_TTL: Final = re.compile(
    r"gw:(teams|team-names|key-teams|admins|admin:\w+|audit|upstreams-off|generation|sealing-key"
    r"|\{gw:team-names\}:changes|\{(?!canary)\w+\}:(team|keys|key:\w+|state|holds|held|journal|words|archived|audit))"
)  # the table above gives each one's reason; a test fails on any other key without a TTL


class TeamKeys(NamedTuple):
    """The keys of one team."""

    team_id: str

    def _name(self, rest: str) -> str:
        return f"gw:{{{self.team_id}}}:{rest}"

    def of_admission(self, key_id: str) -> list[str]:
        """Returns the keys that every admission touches: team, key, state, holds, held, end users."""
        prefix = f"gw:{{{self.team_id}}}:"
        return [
            prefix + "team",
            f"{prefix}key:{key_id}",
            prefix + "state",
            prefix + "holds",
            prefix + "held",
            prefix + "end-users",
        ]

    def of_request(self, key_id: str) -> list[str]:
        """Returns the keys that every settlement touches: team, key, state, holds, held, journal."""
        prefix = f"gw:{{{self.team_id}}}:"
        return [
            prefix + "team",
            f"{prefix}key:{key_id}",
            prefix + "state",
            prefix + "holds",
            prefix + "held",
            prefix + "journal",
        ]

    def of_settlement(self, key_id: str, hold_id: str, admitted_ms: int, indexed_ms: int, day: int = -1) -> list[str]:
        """Returns the keys that every settlement touches: those of its request, words, index, usage, resolution.

        `day`: in the team's time zone, days after 1970-01-01; -1: as in UTC.
        """
        prefix = f"gw:{{{self.team_id}}}:"
        return [
            *self.of_request(key_id),
            prefix + "words",
            f"{prefix}ended:{indexed_ms // WEEK_MS}",
            f"{prefix}used:{admitted_ms // STEP_MS['hour']}",
            f"{prefix}used-day:{admitted_ms // STEP_MS['day'] if day < 0 else day}",
            f"{prefix}done:{hold_id}",
        ]

    @property
    def team(self) -> str:
        """The team's settings and limits."""
        return self._name("team")

    @property
    def end_users(self) -> str:
        """What limits of each end user have counted."""
        return self._name("end-users")

    @property
    def keys(self) -> str:
        """The list of the team's keys, by creation."""
        return self._name("keys")

    @property
    def state(self) -> str:
        """Balance and counters."""
        return self._name("state")

    @property
    def holds(self) -> str:
        """Open holds by their expiry."""
        return self._name("holds")

    @property
    def held(self) -> str:
        """The amounts of open holds."""
        return self._name("held")

    @property
    def queue(self) -> str:
        """Requests that wait in the queue."""
        return self._name("queue")

    @property
    def journal(self) -> str:
        """Every movement of credits."""
        return self._name("journal")

    def key(self, key_id: str) -> str:
        """One key's settings, limits and secrets."""
        return self._name(f"key:{key_id}")

    @property
    def archived(self) -> str:
        """The sums of journal entries that were moved to files."""
        return self._name("archived")

    @property
    def words(self) -> str:
        """Repeated texts of journal entries, by number."""
        return self._name("words")

    def ended(self, at_ms: int) -> str:
        """The index of the journal for requests that were admitted in the week of a time (the server's, in ms)."""
        return self._name(f"ended:{at_ms // WEEK_MS}")

    def ended_since(self, since_ms: int, now_ms: int) -> list[str]:
        """The indexes for all weeks from a time until now, the newest first."""
        return [self._name(f"ended:{week}") for week in range(now_ms // WEEK_MS, since_ms // WEEK_MS - 1, -1)]

    def resolution(self, hold_id: str) -> str:
        """How a hold ended, written by older versions."""
        return self._name(f"done:{hold_id}")

    def usage(self, step: Step, at_ms: int) -> str:
        """The usage of the hour or the day (UTC) that contains a time (the server's, in ms)."""
        return self._name(_rolled_up("used", step, at_ms))

    def attributed(self, at_ms: int, day: int = -1) -> str:
        """The usage of a day by tag and end user.

        The day is that of a time (the server's, in ms) in UTC, or else `day`, in days after 1970-01-01.
        """
        return self._name(f"attributed:{at_ms // STEP_MS['day'] if day < 0 else day}")

    def outcomes(self, step: Step, at_ms: int) -> str:
        """The outcomes, durations and refusals of such an hour or day."""
        return self._name(_rolled_up("seen", step, at_ms))

    def idempotency_key(self, key_id: str, idempotency_key: str) -> str:
        """A client's Idempotency-Key. Each API key has its own."""
        return self._name(f"mark:{_digest(key_id, idempotency_key)}")

    def grant(self, idempotency_key: str) -> str:
        """The idempotency key of a movement of credits."""
        return self._name(f"grant:{_digest(idempotency_key)}")

    def creation(self, idempotency_key: str) -> str:
        """The idempotency key with which a key was created."""
        return self._name(f"made:{_digest(idempotency_key)}")

    @property
    def audit(self) -> str:
        """The admin actions on the team."""
        return self._name("audit")

    @property
    def timings(self) -> str:
        """Durations of the parts of the team's last settled requests."""
        return self._name("timings")

    @property
    def refused(self) -> str:
        """The team's last refusals."""
        return self._name("refused")

    def rotated(self, idempotency_key: str) -> str:
        """The idempotency key of a rotation."""
        return self._name(f"rotated:{_digest(idempotency_key)}")

    def response(self, response_id: str) -> str:
        """Which upstream makes a response whose request runs. Older versions also wrote it for ended requests."""
        return self._name(f"response:{_digest(response_id)}")

    @property
    def stored_responses(self) -> list[str]:
        """The keys of the responses that the gateway stores itself: contents, entries, use, items."""
        return [self._name(name) for name in ("responses", "response-entries", "response-use", "response-items")]

    @property
    def background(self) -> str:
        """The team's background responses that have not ended."""
        return self._name("background")

    def background_response(self, response_id: str) -> list[str]:
        """The keys of one background response: those of stored ones, jobs, events, temporary."""
        own = [self._name(f"{name}:{response_id}") for name in ("events", "temporary")]
        return [*self.stored_responses, self.background, *own]

    def conversation(self, conversation_id: str) -> str:
        """The key of a conversation's items and metadata."""
        return self._name(f"conversation:{conversation_id}")

    @property
    def conversation_account(self) -> list[str]:
        """The keys that cover all conversations: use, sizes."""
        return [self._name("conversation-use"), self._name("conversation-sizes")]

    @property
    def kept_state_by_id(self) -> list[str]:
        """Patterns of the state's keys whose names end in an id."""
        return [self._name(f"{name}:*") for name in ("conversation", "events", "temporary")]


def admin(admin_id: str) -> str:
    """An admin key's scope and hashed secret."""
    return f"gw:admin:{admin_id}"


def worker(worker_id: str) -> str:
    """The state of a worker's upstreams."""
    return f"gw:worker:{worker_id}"


def session(token: str) -> str:
    """Who is signed in to the dashboard. The token is hashed, so that a reader of the store does not learn it."""
    return f"gw:session:{_digest(token)}"


def sign_in(host: str) -> str:
    """Attempts to sign in from an address."""
    return f"gw:sign-in:{_digest(host)}"


def creation(idempotency_key: str) -> str:
    """The idempotency key with which a team was created."""
    return f"gw:made:{_digest(idempotency_key)}"


def _rolled_up(kind: str, step: Step, at_ms: int) -> str:
    return f"{kind}{'' if step == 'hour' else '-day'}:{at_ms // STEP_MS[step]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
