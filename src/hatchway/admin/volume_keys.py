"""Keys that an instance keeps itself, in a volume mounted at a path that ends in /.ssh: read by hostd, judged here.

What is in such a file is the container's word and nobody else's. It can let people into this instance, where its
operator has allowed that, and nothing more: options of a line count where they restrict (credentials.authorized).

Reading takes as long as the volume likes: no turn (`Core.turn`) may be held meanwhile.

Concurrency: one reading of a volume at a time; whoever comes meanwhile has its result, also when it failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import trio

from hatchway import log
from hatchway.admin.core import IDENTIFIED, Core
from hatchway.credentials import authorized
from hatchway.credentials.authorized import Entry
from hatchway.errors import HatchwayError, HostError
from hatchway.model import VolumeInfo
from hatchway.registry.records import InstanceRecord, LoginRecord
from hatchway.wire.host import KeyFiles, Skip

FRESH_S = 1.0
"""How long what was read counts without another look, in seconds: sshd asks three times for each login by a key."""

KEPT_S = 60.0
"""How long, in seconds, it counts when hostd cannot look: sessions must not end for a moment's trouble."""

FAILED_S = 5.0
"""How long, in seconds, a volume that could not be read is not looked at again."""

ANSWER_S = 3.0
"""How long, in seconds, an operator's command waits for what is only shown."""

KEYS_MAX = 200
"""Keys of one instance's volumes that count. sshd tries each that a client offers against all of them."""

_SKIPPED = {
    Skip.SYMLINK: "it is a symbolic link",
    Skip.KIND: "it is no regular file",
    Skip.SIZE: "it is too large",
    Skip.TOGETHER: "there is too much in the files before it",
    Skip.MANY: "there are too many files",
    Skip.WRITABLE: "others than its owner may write to it",
    Skip.OWNER: "it belongs to somebody else than the directory does",
    Skip.BUSY: "a program has a lease on it",
    Skip.CHANGING: "it changes all the time",
    Skip.FAILED: "it cannot be read",
    Skip.CROWDED: "there are too many names in it",
}


@dataclass(frozen=True, slots=True)
class InVolumes:
    """The keys of an instance's volumes with their places, and what is wrong with them, in sentences without stop.

    `certain`: there are no others. Else nobody could look, which is no reason to end a session.
    """

    keys: tuple[tuple[str, Entry], ...] = ()
    problems: tuple[str, ...] = ()
    certain: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """What was in a volume `at` (trio's clock, seconds). `files` are names and what is in them."""

    at: float
    token: bytes
    found: InVolumes


NOTHING = InVolumes()


class VolumeKeys:
    """Of all instances of one Core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[tuple[str, str], _Read] = {}
        # Until when nothing is asked of it again (trio's clock), and what was said.
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._turns: dict[tuple[str, str], trio.Lock] = {}
        self._logger = log.get()

    async def read(self, record: LoginRecord) -> InVolumes:
        """The keys that count for an instance now, and what does not. Nothing where it is not allowed."""
        if not isinstance(record, InstanceRecord) or not record.conditions.volume_keys:
            return NOTHING
        info = self._core.inventory.get(record.key)
        if info is None:
            return InVolumes(problems=("it is not there now, nor are keys in its volumes",), certain=False)
        volumes = [volume for volume in info.volumes if volume.is_ssh_directory]
        if not volumes:
            return InVolumes(problems=("it has no volume at a path that ends in /.ssh",))
        keys: list[tuple[str, Entry]] = []
        problems: list[str] = []
        certain = True
        for volume in volumes:
            found = await self._volume(volume)
            certain = certain and found.certain
            keys += [(f"{volume.path}/{place}", entry) for place, entry in found.keys]
            problems += [f"{volume.path}{problem}" for problem in found.problems]
        if len(keys) > KEYS_MAX:
            problems.append(f"only the first {KEYS_MAX} of {len(keys)} keys count")
        return InVolumes(tuple(keys[:KEYS_MAX]), tuple(problems), certain)

    async def shown(self, record: LoginRecord) -> InVolumes:
        """As `read`, for whoever answers an operator: a volume that takes its time is passed over."""
        with trio.move_on_after(ANSWER_S):
            return await self.read(record)
        return InVolumes(problems=("keys in its volumes are not known yet: a volume takes its time",), certain=False)

    async def _volume(self, volume: VolumeInfo) -> InVolumes:
        if volume.refusal is not None or volume.kind not in IDENTIFIED or volume.source is None:
            return InVolumes(problems=(f": {volume.refusal or 'it cannot be read'}",), certain=False)
        this = (volume.source, volume.created)
        async with self._turns.setdefault(this, trio.Lock()):
            known = self._known.get(this)
            if known is not None and trio.current_time() - known.at < FRESH_S:
                return known.found
            try:
                files = await self._files(this, volume.path, b"" if known is None else known.token)
            except HatchwayError as exc:
                if known is not None and trio.current_time() - known.at < KEPT_S:
                    return known.found
                return InVolumes(problems=(f": it cannot be read now: {exc}",), certain=False)
            found = known.found if files.unchanged and known is not None else _judged(files)
            self._known[this] = _Read(trio.current_time(), files.token, found)
            self._forget_others()
            return found

    async def _files(self, this: tuple[str, str], path: str, token: bytes) -> KeyFiles:
        """What hostd says is in a volume. Raises HatchwayError, and for FAILED_S the same without asking."""
        until, why = self._failed.get(this, (-math.inf, ""))
        if trio.current_time() < until:
            raise HostError(why)
        try:
            files = await self._core.host.read_keys(*this, token)
        except HatchwayError as exc:
            self._logger.warning("keys of a volume not read", path=path, error=str(exc))
            self._failed[this] = trio.current_time() + FAILED_S, str(exc)
            raise
        self._failed.pop(this, None)
        return files

    def _forget_others(self) -> None:
        """Forget the volumes that no instance has any more."""
        there = {
            (volume.source, volume.created)
            for info in self._core.inventory.instances()
            for volume in info.volumes
            if volume.is_ssh_directory
        }
        for gone in self._known.keys() - there:
            del self._known[gone]
        for gone in self._failed.keys() - there:
            del self._failed[gone]
        for this in [this for this, turn in self._turns.items() if this not in there and not turn.locked()]:
            del self._turns[this]


def _judged(files: KeyFiles) -> InVolumes:
    keys: list[tuple[str, Entry]] = []
    problems: list[str] = []
    for file in files.files:
        name = file.name.decode("utf-8", "backslashreplace")
        said = authorized.parse(file.data)
        keys += [(f"{name}:{entry.number}", entry) for entry in said.entries]
        problems += [f"/{name}:{line.number}: {line.reason}" for line in said.bad]
    for skipped in files.skipped:
        name = skipped.name.decode("utf-8", "backslashreplace")
        problems.append(f"{f'/{name}' if name else ''}: {_SKIPPED[skipped.reason]}")
    if files.more:
        problems.append(f": {files.more} more files were passed over")
    return InVolumes(tuple(keys), tuple(problems))
