"""People: the admin socket's requests about who has a login of their own, and what is shared with them.

A person's grants are apart from an instance's own: `disable` takes nothing away from people, and what is suspended
since another volume came is theirs again only when it is granted to them again.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from hatchway import log
from hatchway.admin import personal
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.choosing import choose
from hatchway.admin.core import Core
from hatchway.admin.finding import Finding
from hatchway.admin.granting import Granting, check_new_limits, check_ownership
from hatchway.admin.key_places import Place
from hatchway.admin.measuring import Measuring
from hatchway.admin.secrets import of_kind, password_kind
from hatchway.admin.share_links import pages_url
from hatchway.admin.statuses import Statuses
from hatchway.config import Config
from hatchway.errors import ConflictError, HostError, NotFoundError, UsageError
from hatchway.model import (
    DEPTH_MAX,
    Directory,
    InstanceKey,
    Login,
    Mode,
    VolumeInfo,
    is_probe,
    login_candidates,
    valid_login,
    valid_volume_path,
)
from hatchway.printable import plain
from hatchway.registry.records import CredentialKind, PersonGrant, PersonRecord
from hatchway.registry.store import Registry
from hatchway.wire.people import (
    FULL_NAME_MAX,
    AddPerson,
    GrantPerson,
    ListPeople,
    People,
    PersonChanged,
    PersonRemoved,
    RemovePerson,
    RevokePerson,
)
from hatchway.wire.service import Request

ROOT = (0,)


class PeopleRequests:
    """The requests, on one Core."""

    def __init__(
        self, core: Core, finding: Finding, granting: Granting, measuring: Measuring, statuses: Statuses
    ) -> None:
        self._core = core
        self._finding = finding
        self._granting = granting
        self._measuring = measuring
        self._statuses = statuses
        self._turn = trio.Lock()
        self._logger = log.get()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            ListPeople: Request(ROOT, self._list),
            AddPerson: Request(ROOT, self._add),
            RemovePerson: Request(ROOT, self._remove),
            GrantPerson: Request(ROOT, self._grant),
            RevokePerson: Request(ROOT, self._revoke),
        }

    async def _list(self, request: ListPeople, _caller: Caller) -> People:
        people: Sequence[PersonRecord] = await self._core.db(Registry.people)
        if request.instance is not None:
            key = await self._finding.key(request.instance)
            people = [person for person in people if any(grant.key == key for grant in person.grants)]
        sessions, sizes = await self._statuses.sessions(), await self._measuring.sizes()
        folders = await self._statuses.folders(people)
        return People(tuple(self._statuses.of_person(person, sessions, sizes, folders) for person in people))

    async def _add(self, request: AddPerson, caller: Caller) -> PersonChanged:
        # With "_" begin accounts that packages make (Debian policy 9.2.1): one of them may come later.
        if not valid_login(request.login) or request.login.startswith("_") or is_probe(request.login):
            raise UsageError(
                f"{request.login!r} cannot be a login: a letter, then letters, digits, '-' and '_', all in lower case, "
                "at most 31 together"
            )
        if (other := await self._finding.is_called(request.login)) is not None:
            raise ConflictError(f"the instance {other} is called {request.login}: choose another name")
        full_name = request.full_name.strip()
        if len(full_name) > FULL_NAME_MAX or plain(full_name, FULL_NAME_MAX) != full_name:
            raise UsageError(f"a full name has at most {FULL_NAME_MAX} plainly visible characters")
        record, shown = await self._granting.add_person(Login(request.login), full_name, by=caller.name)
        return await self._changed(record, password=None if shown is None else shown.reveal())

    async def _remove(self, request: RemovePerson, caller: Caller) -> PersonRemoved:
        login = (await self._finding.person(request.login)).login
        record = await self._core.db(lambda registry: registry.remove_person(login))
        self._core.must_hear(login)
        self._logger.info("person removed", login=login, by=caller.name)
        await self._core.hand_over(f"{login} is removed from the registry", login)
        return PersonRemoved(login=login, grants=tuple((one.key, one.grant.path) for one in record.grants))

    async def _grant(self, request: GrantPerson, caller: Caller) -> PersonChanged:
        person = await self._finding.person(request.login)
        info = await self._finding.present(request.instance)
        await self._core.host.reached()
        if self._core.host.problem is not None:
            raise HostError(f"nothing can be granted now: {self._core.host.problem}")
        # Another directory may stand there by now than the one that is known, and that is what it is to be for.
        await self._core.look_again()
        info = self._core.inventory.get(info.key) or info
        chosen = choose(info, request.volumes, every=request.every)
        folder = _folder(request.folder)
        if folder and (request.every or len(chosen) != 1):
            raise UsageError("a folder is one volume's: name that volume only")
        grants = [
            (volume, Mode.READ_ONLY if request.read_only or volume.read_only else Mode.READ_WRITE, folder)
            for volume in chosen
        ]
        # Two at once are not to meet what neither would meet alone.
        async with self._turn:
            person = await self._finding.person(person.login)
            await self._check(person, info.key, chosen, folder)
            record = await self._granting.grant_person(
                person.login,
                info.key,
                grants,
                by=caller.name,
                ownership=check_ownership(request.ownership),
                limits=check_new_limits(request.limits),
            )
        await self._core.hand_over("access is granted", person.login)
        return await self._changed(record, info.key, tuple(volume.path for volume in chosen))

    async def _check(self, person: PersonRecord, key: InstanceKey, chosen: Sequence[VolumeInfo], folder: str) -> None:
        """Raise ConflictError when these volumes cannot be a person's."""
        record, deliveries = await self._core.db(lambda registry: (registry.instance(key), registry.deliveries()))
        put = self._core.places_of(deliveries)
        paths = {volume.path for volume in chosen}
        others = {
            personal.place_of(one): one.grant.path
            for one in person.grants
            if one.key == key and one.grant.path not in paths
        }
        longest = login_candidates(key)[1] if record is None else record.login
        for volume in chosen:
            if volume.source is None:
                raise ConflictError(f"{volume.path} has no directory on this host now")
            place = f"/{longest}{volume.path}" + (f"/{folder}" if folder else "")
            if not fits(self._core.config, person.login, place):
                raise ConflictError(f"{volume.path} is too long or too deep a path for a person's login")
            if place in others:
                raise ConflictError(
                    f"what {person.login} has of {others[place]} stands at that very place: "
                    f"'hatchway person revoke {person.login} {key} {others[place]}' takes it away"
                )
            seen = Place(Directory(volume.source, volume.created), folder)
            if (shown := put.shown(seen)) is not None:
                raise ConflictError(
                    f"the private key of {shown.login} lies in {volume.path}, where {person.login} could read it; "
                    f"'hatchway key take-back {shown.login}' takes it away"
                )

    async def _revoke(self, request: RevokePerson, caller: Caller) -> PersonChanged:
        person = await self._finding.person(request.login)
        key = await self._finding.key(request.instance)
        theirs = [one for one in person.grants if one.key == key]
        listed = ", ".join(one.grant.path for one in theirs) or "nothing"
        if not request.volumes and not request.every:
            raise UsageError(f"which volume of {key}? {person.login} has: {listed}. Name some, or say --all")
        if not theirs:
            raise NotFoundError(f"nothing of {key} is shared with {person.login}")
        paths = [one.grant.path for one in theirs] if request.every else _named(person, theirs, request.volumes)
        removed = await self._core.db(lambda registry: registry.revoke_person(person.login, key, paths))
        self._core.must_hear(person.login)
        self._logger.info("person disabled", login=person.login, instance=str(key), paths=removed, by=caller.name)
        await self._core.hand_over("access is taken away in the registry", person.login)
        return await self._changed(await self._finding.person(person.login), key, removed)

    async def _changed(
        self,
        record: PersonRecord,
        key: InstanceKey | None = None,
        changed: tuple[str, ...] = (),
        password: str | None = None,
    ) -> PersonChanged:
        folders = await self._statuses.folders([record])
        status = self._statuses.of_person(record, await self._statuses.sessions(), folders=folders)
        known = await self._core.db(lambda registry: registry.credentials(record.login))
        kind = password_kind(of_kind(known, CredentialKind.PASSWORD))
        config = self._core.config
        return PersonChanged(
            person=status,
            key=key,
            changed=changed,
            password=password,
            password_kind=kind,
            web=pages_url(config) if config.web.enabled else None,
        )


def fits(config: Config, login: str, place: str) -> bool:
    """Whether a volume can stand at `place` in the root of `login`: hostd makes that path."""
    whole = f"{config.mount_dir}/{login}{place}"
    return valid_volume_path(place) and valid_volume_path(whole) and place.count("/") <= DEPTH_MAX


def _folder(text: str) -> str:
    """`text` as PersonGrant.folder. Raises UsageError."""
    folder = text.strip("/")
    if folder and not valid_volume_path(f"/{folder}"):
        raise UsageError(
            f"{text!r} is no folder of a volume: expected names with a slash between two, none of them '..'"
        )
    return folder


def _named(person: PersonRecord, theirs: Sequence[PersonGrant], names: Sequence[str]) -> list[str]:
    """Which paths of `theirs` are called so, by path or name. Raises NotFoundError, UsageError."""
    paths = []
    for name in names:
        path = name.rstrip("/") or "/"
        found = [one.grant.path for one in theirs if one.grant.path == path or one.grant.name == name]
        if len(found) > 1:
            raise UsageError(f"{name!r} is mounted more than once: name a path of {', '.join(found)}")
        if not found:
            listed = ", ".join(one.grant.path for one in theirs)
            raise NotFoundError(f"{name!r} is not shared with {person.login}; shared is: {listed}")
        paths.append(found[0])
    return paths
