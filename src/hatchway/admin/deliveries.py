"""The private key of an instance in a volume of its own, where its programs find it: put there, kept there, taken away.

What is there is ours only as long as it is the key we put there, which is told by its hash: anything else is never
replaced or removed (host/tasks.py). So before a key is put anywhere its hash is stored, and none is forgotten before
its file is known to be gone. hostd may be away and a volume may not be there: what was not done is tried again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import trio

from hatchway import log
from hatchway.admin import personal, shares
from hatchway.admin.core import Core
from hatchway.admin.granting import context_of
from hatchway.errors import ConflictError, HatchwayError, NotFoundError, UsageError
from hatchway.model import DEPTH_MAX, Directory, Login, Mode, valid_volume_path
from hatchway.registry.records import CredentialKind, CredentialRecord, Delivery, InstanceRecord
from hatchway.registry.store import Registry
from hatchway.wire.host import HASHES_MAX, Deliver, PrivateBytes, SharedVolume, Withdraw, Withdrawal

RETRY_S = 60.0
"""How often what was not done is tried again, in seconds."""

FILE = "id_container"

OUTCOMES = {
    Withdrawal.REMOVED: "removed",
    Withdrawal.ABSENT: "it was not there",
    Withdrawal.FOREIGN: "another file is there, which stays",
}
"""What became of a key that was to be taken away, in words."""


class Deliveries:
    """For one Core. `run` tries again what was not done."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turns: dict[Login, trio.Lock] = {}
        self._logger = log.get()

    async def want(self, record: InstanceRecord, volume: str, directory: str) -> None:
        """Put the key of `record` into its shared `volume`, a path or a name, and take it away from where it was.

        Raises HatchwayError: then nothing has changed.
        """
        directory = _within(directory)
        (path,) = shares.named(record.key, shares.by_path(record), (volume,))
        share = shares.live_grants(record, self._core.inventory).get(path)
        if share is None or share.mode is Mode.READ_ONLY:
            state = "suspended" if share is None else "read-only"
            raise ConflictError(f"access to {path} is {state}: nothing can be put there")
        new = Delivery(record.login, path, directory, Directory(share.source, share.created))
        await self._check_readers(new)
        async with self._turns.setdefault(record.login, trio.Lock()):
            before = await self._core.db(lambda registry: registry.deliveries(record.login))
            same = next((one for one in before if _place(one) == _place(new)), None)
            asked = replace(new if same is None else same, path=path, wanted=True, done=False)
            stored = await self._core.db(lambda registry: registry.put_delivery(asked))
            try:
                # From here on no person is shown that place, whatever is granted meanwhile.
                await self._core.sync_logged()
                await self._check_readers(new)
                await self._bring(stored, record)
            except HatchwayError:
                # It may lie there none the less: then it is taken away, now or later.
                failed = await self._current(stored)
                failed = (
                    replace(failed, wanted=False)
                    if same is None
                    else replace(failed, path=same.path, wanted=same.wanted)
                )
                await self._core.db(lambda registry: registry.put_delivery(failed))
                if not failed.wanted:
                    await self._settle_login(record.login)
                raise
            for one in before:
                if one.id != stored.id:
                    unwanted = replace(one, wanted=False)
                    await self._core.db(lambda registry, unwanted=unwanted: registry.put_delivery(unwanted))  # type: ignore[misc]
        await self.settle(record.login)

    async def _check_readers(self, delivery: Delivery) -> None:
        """Raise ConflictError when people could read what is put there, now or when a grant is in force again."""
        put = self._core.places_of((delivery,))
        people = await self._core.db(Registry.people)
        readers = [
            f"{person.login} (by {grant.grant.path} of {grant.key})"
            for person in people
            for grant in person.grants
            if any(put.shown(place) is not None for place in personal.may_see(grant, self._core.inventory))
        ]
        if readers:
            raise ConflictError(f"people could read the private key there: {', '.join(readers)}")

    async def unwant(self, record: InstanceRecord) -> tuple[str, ...]:
        """Take the key away from where it was put. Gives what became of that, in words without stop, for each place;
        what was not done is tried again. Raises NotFoundError when it was put nowhere."""
        async with self._turns.setdefault(record.login, trio.Lock()):
            before = await self._core.db(lambda registry: registry.deliveries(record.login))
            if not before:
                raise NotFoundError(f"the key of {record.login} was put into no volume")
            unwanted = [replace(one, wanted=False) for one in before]
            for one in unwanted:
                await self._core.db(lambda registry, one=one: registry.put_delivery(one))  # type: ignore[misc]
            outcomes = tuple([f"{_file_of(one)}: {await self._taken_away(one)}" for one in unwanted])
        # People are shown again what the key lay in.
        await self._core.sync_logged()
        return outcomes

    async def _taken_away(self, one: Delivery) -> str:
        try:
            return await self._take_away(one)
        except HatchwayError as exc:
            self._logger.warning("private key not taken away", login=one.login, path=one.path, error=str(exc))
            return f"not taken away yet, {exc}"

    async def settle(self, login: Login | None = None) -> None:
        """Have the keys of `login`, or of all, lie where they are to lie and nowhere else, as far as that can be done
        now. Raises nothing of hostd's: what was not done is tried again."""
        found = await self._core.db(lambda registry: registry.deliveries(login))
        for name in dict.fromkeys(one.login for one in found):
            async with self._turns.setdefault(name, trio.Lock()):
                await self._settle_login(name)

    async def _settle_login(self, login: Login) -> None:
        """`settle`, within the turn of `login`."""
        record = await self._core.db(lambda registry: registry.instance_of(login))
        before = await self._core.db(lambda registry: registry.deliveries(login))
        # First what is to go: it may be the file of a place where the key is to stay. See `_take_away`.
        for wanted in (False, True):
            for one in await self._core.db(lambda registry: registry.deliveries(login)):
                if _is_wanted(one, record) is wanted:
                    await self._settle_logged(one, record)
        if len(await self._core.db(lambda registry: registry.deliveries(login))) < len(before):
            # People are shown again what the key lay in.
            await self._core.sync_logged()

    async def _settle_logged(self, one: Delivery, record: InstanceRecord | None) -> None:
        try:
            await self._settle(one, record)
        except HatchwayError as exc:
            self._logger.warning("private key not settled", login=one.login, path=one.path, error=str(exc))

    async def run(self) -> None:
        """Try again for ever what was not done."""
        while True:
            await trio.sleep(RETRY_S)
            try:
                await self.settle()
            except Exception:
                self._logger.exception("private keys not looked at")

    async def places(self, login: Login) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Where the key of `login` lies, and what has not been done yet, in sentences without stop."""
        found = await self._core.db(lambda registry: registry.deliveries(login))
        key = await self._key(login)
        record = await self._core.db(lambda registry: registry.instance_of(login))
        live = {} if record is None else shares.live_grants(record, self._core.inventory)
        lying, problems = [], []
        for one in found:
            path = _file_of(one)
            share = live.get(one.path)
            there = share is not None and Directory(share.source, share.created) == one.volume
            present = key is not None and one.hashes == (_digest(self._private(key, login)),)
            wanted = _is_wanted(one, record)
            if wanted and one.done and present and there:
                lying.append(path)
            elif wanted:
                problems.append(f"{path} is not the present key yet")
            else:
                problems.append(f"{path} could not be taken away yet")
        return tuple(lying), tuple(problems)

    async def _settle(self, one: Delivery, record: InstanceRecord | None) -> None:
        if record is None or not _is_wanted(one, record):
            await self._take_away(one)
            return
        share = shares.live_grants(record, self._core.inventory).get(one.path)
        # Whatever else stands there now, it is not the volume the key was to be in; what is read-only stays as it is.
        there = share is not None and Directory(share.source, share.created) == one.volume
        if there and share is not None and share.mode is Mode.READ_WRITE:
            await self._bring(one, record)

    async def _bring(self, one: Delivery, record: InstanceRecord) -> None:
        key = await self._key(one.login)
        if key is None:
            raise NotFoundError(f"{one.login} has no key of ours")
        private = self._private(key, one.login)
        digest = _digest(private)
        if one.done and one.hashes == (digest,):
            return
        share = shares.live_grants(record, self._core.inventory).get(one.path)
        if share is None:
            raise ConflictError(f"access to {one.path} is suspended: nothing can be put there")
        earlier = tuple(known for known in one.hashes if known != digest)
        if len(earlier) >= HASHES_MAX:
            # No more can be recognised, and none of these may be forgotten while it may lie there.
            await self._core.host.withdraw(self._withdrawal(one))
            earlier = ()
        noted = replace(one, hashes=(*earlier, digest), done=False)
        await self._core.db(lambda registry: registry.put_delivery(noted))
        await self._core.host.deliver(
            Deliver(
                volume=self._shared(one.volume),
                directory=one.directory,
                owner=share.owner_ids,
                key=PrivateBytes(private),
                replaces=tuple(bytes.fromhex(known) for known in noted.hashes),
            )
        )
        await self._core.db(lambda registry: registry.put_delivery(replace(noted, hashes=(digest,), done=True)))
        self._logger.info("private key delivered", login=one.login, path=one.path)

    async def _take_away(self, one: Delivery) -> str:
        """Take the key away from a place, for good. Gives what was found, in words. Raises HatchwayError.

        The same file may be another place's: a volume and a directory of it (volume-subpath), or directories that are
        mounted into each other, are different volumes to us. So whatever else there is has to be looked at again.
        """
        outcome = OUTCOMES[Withdrawal.ABSENT]
        if one.hashes:
            try:
                found = await self._core.host.withdraw(self._withdrawal(one))
                outcome = OUTCOMES[found]
            except ConflictError:
                if not await self._is_another(one.volume):
                    raise
                found, outcome = Withdrawal.FOREIGN, "the volume is gone"
            if found is not Withdrawal.FOREIGN:
                await self._doubt(one)
            self._logger.info("private key taken away", login=one.login, path=one.path, outcome=outcome)
        await self._core.db(lambda registry: registry.drop_delivery(one))
        return outcome

    def _withdrawal(self, one: Delivery) -> Withdraw:
        hashes = tuple(bytes.fromhex(known) for known in one.hashes)
        return Withdraw(volume=self._shared(one.volume), directory=one.directory, hashes=hashes)

    async def _doubt(self, gone: Delivery) -> None:
        """The key may not lie any more where else it was put: it is put there again if it does not."""
        for other in await self._core.db(lambda registry: registry.deliveries(gone.login)):
            if other.id != gone.id and other.done:
                doubtful = replace(other, done=False)
                await self._core.db(lambda registry, doubtful=doubtful: registry.put_delivery(doubtful))  # type: ignore[misc]

    async def _is_another(self, volume: Directory) -> bool:
        """Whether another directory stands where `volume` was: what lay in it is out of everybody's reach."""
        births = (await self._core.host.births((volume.source,))).births
        return births.get(volume.source, volume.birth) != volume.birth

    async def _current(self, one: Delivery) -> Delivery:
        found = await self._core.db(lambda registry: registry.deliveries(one.login))
        return next(other for other in found if other.id == one.id)

    def _shared(self, volume: Directory) -> SharedVolume:
        limits = (self._core.limits or shares.NOTHING).get(volume)
        shared = SharedVolume(source=volume.source, birth=volume.birth)
        return shared if limits is None else SharedVolume(source=volume.source, birth=volume.birth, limits=limits)

    async def _key(self, login: Login) -> CredentialRecord | None:
        known = await self._core.db(lambda registry: registry.credentials(login))
        return next((one for one in known if one.kind is CredentialKind.KEY and one.sealed is not None), None)

    def _private(self, key: CredentialRecord, login: Login) -> bytes:
        assert key.sealed is not None
        return self._core.sealing.unseal(key.sealed, context_of(login, CredentialKind.KEY)).reveal().encode()


def _is_wanted(one: Delivery, record: InstanceRecord | None) -> bool:
    """Whether the key is to lie there, by what `record`, that of its login, says now."""
    return one.wanted and record is not None and one.path in shares.by_path(record)


def _file_of(one: Delivery) -> str:
    """The path of the key in the container."""
    return "/".join(part for part in (one.path, one.directory, FILE) if part)


def _within(directory: str) -> str:
    """`directory` of a volume, "" for its root, as `host.policy.check_within` takes it. Raises UsageError."""
    names = [name for name in directory.split("/") if name not in ("", ".")]
    path = "/".join(names)
    if names and (".." in names or len(names) > DEPTH_MAX or not valid_volume_path(f"/{path}")):
        raise UsageError(f"{directory!r} can be no directory of a volume")
    return path


def _place(one: Delivery) -> tuple[Directory, str]:
    return one.volume, one.directory


def _digest(private: bytes) -> str:
    return hashlib.sha256(private).hexdigest()
