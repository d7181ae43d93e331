"""The keys and arguments of the admission script. Pure.

AdmissionCalls(policy).call(request, ...)   for a request, or for its dry run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.ledger.admissions import AdmissionRequest
from gateway.ledger.policy import LedgerPolicy
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script

ADMIT: Final = Script.load("admit_v8")


class AdmissionCalls:
    """Makes calls with the lifetimes of a policy.

    `run_by_ms` returns, for a key of the store, the deadline of a call in ms by the store's clock.
    """

    def __init__(self, policy: LedgerPolicy, run_by_ms: Callable[[str], str]) -> None:
        self._run_by_ms = run_by_ms
        self._hold_ttl_ms = str(int(policy.hold_ttl_s * 1000))
        self._idempotency_ttl_ms = str(policy.idempotency_ttl_s * 1000)
        self._max_end_users = f"{policy.max_end_users} "
        self.burst = str(round(policy.burst * 1000))

    def call(self, request: AdmissionRequest, *, dry_run: bool = False) -> tuple[list[str], list[str]]:
        """Returns the keys and arguments."""
        key, demand, names = request.key, request.demand, TeamKeys(request.key.team_id)
        keys = names.of_admission(key.key_id)
        if request.idempotency_key is not None:
            keys.append(names.idempotency_key(key.key_id, request.idempotency_key))
        keys += [names.queue] if request.waits else []
        return keys, [
            request.request_id,
            key.key_id,
            key.secret_hash,
            "\n".join(request.patterns),
            str(demand.amount_nano_usd),
            str(demand.input_tokens + demand.output_tokens),
            str(-1 if request.max_output_tokens is None else request.max_output_tokens),
            self._hold_ttl_ms,
            "1" if dry_run else "0",
            self._idempotency_ttl_ms,
            str(demand.output_tokens),
            str(demand.worst.output_nano_usd),
            self._run_by_ms(keys[0]),
            self.burst,
            request.operations,
            "1" if request.free else "0",
            "1" if request.waits else "",
            "\n".join(request.limited),
            request.followed_by,
            self._max_end_users + request.end_user,
        ]
