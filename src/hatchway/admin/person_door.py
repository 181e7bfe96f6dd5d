"""People at the door of the web pages: their Hatchway password, and whether they still may be in.

What lets nobody in over SFTP lets nobody in here: the same conditions are looked at, but for what is shared, since who
has nothing yet may come and see that. Whoever is in goes at the next request once that is not so any more, and when the
password they came in by is another now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hatchway import addresses, log
from hatchway.access.decision import Denial, decide_sign_in, has_passed
from hatchway.addresses import Address
from hatchway.admin.admission import Admission, facts_of
from hatchway.admin.core import Core
from hatchway.admin.granting import Granting
from hatchway.admin.secrets import check_chosen, password_kind, wanted_kind
from hatchway.credentials import passwords
from hatchway.credentials.secret import Secret
from hatchway.errors import HatchwayError
from hatchway.registry.records import CredentialKind, CredentialRecord, PersonRecord
from hatchway.wire.entry import Password, PasswordKind


@dataclass(frozen=True, slots=True)
class Known:
    """A person, and the row of the password that is theirs now; None when they have none."""

    record: PersonRecord
    password: CredentialRecord | None


class PersonDoor:
    """For one Core."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission
        self._granting = Granting(core)
        self._logger = log.get(socket="web")

    async def known(self, name: str) -> Known | None:
        """The person called so; None when there is none. `name` is any text."""
        record = await self._core.db(lambda registry: registry.person(name))
        if record is None:
            return None
        found = await self._core.db(lambda registry: registry.credentials(name))
        return Known(record, next((one for one in found if one.kind is CredentialKind.PASSWORD), None))

    def verify(self, known: Known, password: str) -> bool:
        """Whether that is their password. Blocks, and takes the same time for whoever has none."""
        encoded = passwords.DUMMY if known.password is None else known.password.public
        return passwords.verify(encoded, password.encode()) and known.password is not None

    async def guessed_wrong(self, known: Known) -> None:
        """Somebody guessed wrong at their password: as over SFTP, that counts for login.lock_after."""
        if known.password is not None:
            await self._admission.guessed_wrong(known.record.login)

    def is_slow(self, known: Known) -> bool:
        """Whether `verify` may take a second. Raises DamagedSecretError."""
        return known.password is not None and passwords.is_slow(known.password.public)

    def denial(self, known: Known, address: Address | None) -> str:
        """Why they may not be in, from `address`; "" when they may."""
        facts = self._admission.facts(known.record, address="" if address is None else str(address))
        denied = decide_sign_in(facts)
        if denied is None and known.password is not None:
            password = facts_of(known.password)
            denied = Denial.CREDENTIAL_EXPIRED if has_passed(password.expires_at, facts.now) else None
        return "" if denied is None else str(denied)

    async def standing(self, name: str, uid: int, credential: int | None, place: str | None) -> str:
        """Why whoever came in as `name`, with the password in row `credential`, may not stay; "" when they may.

        They ask from the address `place`, "" for one that is none; None: it is not known, and not looked at.
        """
        known = await self.known(name)
        if known is None or known.record.uid != uid:
            return str(Denial.UNKNOWN_LOGIN)
        if known.password is None or known.password.id != credential:
            return "the password is another one now"
        if place is not None:
            return self.denial(known, addresses.address(place))
        facts = self._admission.facts(known.record, address="")
        if facts.locked:
            return str(Denial.LOCKED)
        return str(Denial.EXPIRED) if has_passed(facts.expires_at, facts.now) else ""

    async def change_password(
        self, known: Known, password: str, kind: PasswordKind | None, made: Callable[[int], None]
    ) -> Password:
        """Have theirs be `password` from now on; `made` is told the row of it. Raises UsageError for one that cannot
        be, and ConflictError when they have another one by now than is `known`."""
        assert known.password is not None
        login, row, chosen = known.record.login, known.password.id, Secret(password)
        check_chosen(chosen)
        wanted, encoded = wanted_kind(self._core, kind), await self._granting.hash(chosen)
        async with self._core.sealing_turn:
            new = self._granting.new_password(login, chosen, encoded, wanted)
            now = self._core.now()
            made(await self._core.db(lambda registry: registry.replace_credential(login, new, now, row)))
        not_ended = ""
        try:
            await self._admission.changed(login)
        except HatchwayError as exc:
            self._logger.error("sessions not ended yet", login=login, error=str(exc))
            not_ended = str(exc)
        return Password(login=login, kind=password_kind(new), hash=passwords.kind(new.public), not_ended=not_ended)
