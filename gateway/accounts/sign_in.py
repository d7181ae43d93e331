"""Sign-in by an identity provider. A person's groups decide the scope of an admin key, which expires after a while.

People and programs are therefore the same kind of admin. A browser's session belongs to such a key, and the command
line stores its text. Lists and the audit log show the key with the person's name. Deleting the key ends the sign-in.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from gateway.accounts.accounts import Accounts
from gateway.accounts.admin_keys import Admin, Admins
from gateway.errors import GatewayError
from gateway.oidc.person import Grant, Person, grant_of
from gateway.oidc.provider import Device, IdentityProvider


class SingleSignOn:
    """Creates admin keys for people. `provider` authenticates them; `grants` maps their groups to scopes.

    `label` is the provider's name on the sign-in page. `lasts_s` is the lifetime of a sign-in.
    Raises GatewayError `sign_in_failed`, `identity_provider_unavailable`, `store_unavailable`.
    """

    def __init__(
        self,
        provider: IdentityProvider,
        grants: Iterable[Grant],
        admins: Admins,
        accounts: Accounts,
        *,
        label: str,
        lasts_s: int,
    ) -> None:
        self.provider = provider
        self.label = label
        self._grants = tuple(grants)
        self._admins = admins
        self._accounts = accounts
        self._lasts_s = lasts_s
        self._log = structlog.get_logger("gateway.admin")

    async def admit(self, person: Person) -> tuple[Admin, str]:
        """Returns a new admin key for a person who has signed in, and its text."""
        grant = grant_of(person, self._grants)
        if grant is None:
            self._log.warning("admin_sign_in_refused", subject=person.subject, name=person.name)
            raise GatewayError("sign_in_failed", f"{person.name} is in no group that may sign in here.")
        team_id = (await self._accounts.team(grant.team)).id if grant.team else ""
        admin, text = await self._admins.sign_in(
            person.name, grant.scope, team_id=team_id, subject=person.subject, lasts_s=self._lasts_s
        )
        self._log.info("admin_signed_in", admin=admin.id, name=admin.name, scope=admin.scope, group=grant.group)
        return admin, text

    async def begin_device(self) -> Device:
        """Begins the sign-in of a command line."""
        return await self.provider.begin_device()

    async def admit_device(self, device_code: str) -> tuple[Admin, str] | None:
        """Returns the admin key of a command line whose sign-in is complete, or None while it is not."""
        person = await self.provider.person_by_device(device_code)
        return None if person is None else await self.admit(person)
