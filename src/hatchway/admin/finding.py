"""Which instance an operator means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hatchway.admin.core import Core
from hatchway.errors import NotFoundError, UsageError
from hatchway.model import InstanceInfo, InstanceKey, login_candidates, parse_instance_key, person_named
from hatchway.printable import shell_command
from hatchway.registry.records import InstanceRecord, LoginRecord, PersonRecord
from hatchway.registry.store import Registry


class Finding:
    """Looks in the catalog and the registry of one Core. Texts are a key, with or without its number, a login or a
    container's name."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def present(self, text: str) -> InstanceInfo:
        """The instance of the catalog that `text` means. Raises NotFoundError, UsageError."""
        key = await self.key(text)
        info = self._core.inventory.get(key)
        if info is None:
            raise NotFoundError(f"{key} is not there now, so its volumes are not known")
        return info

    async def granted(self, text: str) -> InstanceRecord:
        """The instance with a login that `text` means. Raises NotFoundError, also when access was never enabled, and
        UsageError."""
        person, records = await self._known(text)
        self._refuse(text, person, records)
        return self._granted(text, records)

    async def holder(self, text: str) -> LoginRecord:
        """The person or the instance with a login that `text` means. Raises as `granted`."""
        if (login := person_named(text)) is not None:
            return await self.person(login)
        person, records = await self._known(text)
        return self._granted(text, records) if person is None else person

    async def recorded(self, text: str) -> str:
        """By what the record knows whom `text` means: a key or a person's login. They may be forgotten. Raises
        NotFoundError, UsageError."""
        if (login := person_named(text)) is not None:
            return login
        person, records = await self._known(text)
        if person is not None:
            return person.login
        try:
            return str(self._resolve(text, records))
        except NotFoundError:
            if await self._core.db(lambda registry: registry.events(limit=1, instance=text)):
                # A person who was removed: of them the record still tells.
                return text
            if "/" not in text:
                raise
            return str(parse_instance_key(text))

    async def _known(self, text: str) -> tuple[PersonRecord | None, tuple[InstanceRecord, ...]]:
        """The person called `text`, if there is one, and all instances. At once: each question to a registry that is
        busy waits behind what it is busy with."""
        return await self._core.db(lambda registry: (registry.person(text), registry.instances()))

    def _granted(self, text: str, records: Sequence[InstanceRecord]) -> InstanceRecord:
        key = self._resolve(text, records)
        record = next((one for one in records if one.key == key), None)
        if record is None:
            command = shell_command(["hatchway", "enable", str(key), "VOLUME"])
            raise NotFoundError(f"access to {key} has never been enabled; this does it: {command}")
        return record

    async def again(self, record: LoginRecord) -> LoginRecord:
        """`record` as it is now. Raises NotFoundError."""
        now = await self._core.db(lambda registry: registry.by_login(record.login))
        if now is None:
            raise NotFoundError(f"{record.login} was taken away meanwhile")
        return now

    async def person(self, login: str) -> PersonRecord:
        """The person called so. Raises NotFoundError."""
        login = person_named(login) or login
        people = await self._core.db(Registry.people)
        found = next((person for person in people if person.login == login), None)
        if found is None:
            close = difflib.get_close_matches(login, [person.login for person in people], 3, 0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "'hatchway person ls' lists them"
            raise NotFoundError(f"there is no person {login!r}; {hint}")
        return found

    async def key(self, text: str) -> InstanceKey:
        """The instance that `text` means, there or once shared. Raises NotFoundError, UsageError.

        A person's login means no instance, be there one of that name: it may have been meant, and what is asked here
        cannot be asked of a person.
        """
        person, records = await self._known(text)
        self._refuse(text, person, records)
        return self._resolve(text, records)

    async def is_called(self, text: str) -> InstanceKey | None:
        """An instance that is called `text` now; None when none is."""
        try:
            return self._resolve(text, await self._core.db(Registry.instances))
        except NotFoundError:
            return None
        except UsageError:
            return next(info.key for info in self._core.inventory.instances() if text in _names(info))

    def _refuse(self, text: str, person: PersonRecord | None, records: Sequence[InstanceRecord]) -> None:
        """Raise UsageError when `text` means a person."""
        if person is None and person_named(text) is None:
            return
        try:
            also = f": the instance is {self._resolve(text, records)}"
        except (NotFoundError, UsageError):
            also = ""
        raise UsageError(f"{person_named(text) or text} is a person, and this is asked of an instance{also}")

    async def subject(self, text: str) -> tuple[str, str]:
        """By which instance or person, and login, the record is to know what is asked of `text`, "" for none. Where it
        means nobody, or several, it is `text` itself: as an instance if it looks like one, else as a login."""
        if (login := person_named(text)) is not None:
            return login, login
        person, records = await self._known(text)
        if person is not None:
            return text, text
        try:
            key = self._resolve(text, records)
        except (NotFoundError, UsageError):
            return (text, "") if "/" in text else ("", text)
        return str(key), next((record.login for record in records if record.key == key), "")

    def _resolve(self, text: str, records: Sequence[InstanceRecord]) -> InstanceKey:
        infos = self._core.inventory.instances()
        known = {info.key for info in infos} | {record.key for record in records}
        if text.count("/") == 1:
            # Its number matters only where there are several.
            matches = {key for key in known if text == f"{key.environment}/{key.container}"}
        elif "/" in text:
            key = parse_instance_key(text)
            if key in known:
                return key
            matches = set()
        elif (known_login := next((one.key for one in records if one.login == text), None)) is not None:
            # Logins are ours to give, names anybody's to take.
            return known_login
        else:
            matches = {info.key for info in infos if text in _names(info)}
            matches |= {key for key in known if text in (key.container, login_candidates(key)[0])}
        if len(matches) == 1:
            return matches.pop()
        if matches:
            raise UsageError(f"{text!r} may be {' or '.join(sorted(map(str, matches)))}: say which")
        names = [str(key) for key in sorted(known)]
        close = difflib.get_close_matches(text, names, 3, 0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; 'hatchway ls' lists them"
        raise NotFoundError(f"there is no instance {text!r}{hint}")


def _names(info: InstanceInfo) -> tuple[str, ...]:
    return info.runtime_name, info.runtime_id, info.key.container, login_candidates(info.key)[0]
