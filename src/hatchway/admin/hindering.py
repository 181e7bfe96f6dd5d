"""What stands in the way of an instance's users, and the command that mends it. Pure."""

from __future__ import annotations

from hatchway.admin.personal import ANOTHER
from hatchway.fullness import Full, fullness
from hatchway.model import Limits, Mode, Origin
from hatchway.printable import shell_command
from hatchway.wire.admin import Access, InstanceStatus, PersonStatus, VolumeStatus
from hatchway.wire.entry import Hindrance

_FULL = {
    Full.OVER: "nothing can be uploaded to {path}: it is over its limit",
    Full.FULL: "nothing can be uploaded to {path}: it is full",
    Full.DISK: "nothing can be uploaded to {path}: the disk it is on is full",
    Full.FILES_OVER: "no file can be added to {path}: it has more than its limit allows",
    Full.FILES: "no file can be added to {path}: it has as many as there may be",
}
_LIMITS = {Full.OVER: "--size", Full.FULL: "--size", Full.FILES_OVER: "--files", Full.FILES: "--files"}


def of_instance(status: InstanceStatus) -> list[Hindrance]:
    """Of its volumes: that none can be reached, that access waits for somebody, that nothing can be added."""
    found = []
    if not any(volume.access.is_on for volume in status.volumes):
        found.append(Hindrance("no volume is shared now: this login cannot enter", _enabling(status)))
    for volume in status.volumes:
        found += _suspended(status, volume)
        found += of_fullness(status, volume)
    return found


def of_person(status: PersonStatus) -> list[Hindrance]:
    """Of what is shared with a person: that they reach nothing of it, or that some of it waits for somebody."""
    found = []
    if not any(volume.access.is_on for volume in status.volumes):
        mend = shell_command(["hatchway", "person", "grant", status.login, "INSTANCE", "VOLUME"])
        found.append(
            Hindrance("nothing is shared with this person now: they cannot enter", mend * (not status.volumes))
        )
    for volume in status.volumes:
        if volume.access is not Access.SUSPENDED:
            continue
        text = f"access to {volume.path} of {volume.key} is suspended: {volume.problem}"
        mend = ""
        if volume.problem == ANOTHER:
            text = f"{text}. Look whose that is, then grant it again"
            options = [] if volume.mode is Mode.READ_WRITE else ["--read-only"]
            options += ["--folder", volume.folder] if volume.folder else []
            mend = shell_command(
                ["hatchway", "person", "grant", *options, "--", status.login, str(volume.key), volume.path]
            )
        found.append(Hindrance(text, mend))
    return found


def of_fullness(status: InstanceStatus, volume: VolumeStatus) -> list[Hindrance]:
    """Why nothing can be added to a volume that can be written to otherwise."""
    if volume.access is not Access.READ_WRITE or volume.size is None:
        return []
    found = []
    for why in fullness(volume.size):
        option = _LIMITS.get(why)
        mend = ""
        if option is not None and _is_by_command(volume, volume.size.limits, option):
            mend = _command("enable", status, volume.path, options=(option, "LIMIT"))
        found.append(Hindrance(_FULL[why].format(path=volume.path), mend))
    return found


def _is_by_command(volume: VolumeStatus, limits: Limits, option: str) -> bool:
    """Whether the limit that holds is one that this instance's own grant by command says, and another one would end."""
    given = [grant.limits for grant in volume.grants if grant.origin is Origin.COMMAND]
    if option == "--files":
        return limits.files is not None and any(one.files == limits.files for one in given)
    return limits.size is not None and any(one.size == limits.size for one in given)


def _suspended(status: InstanceStatus, volume: VolumeStatus) -> list[Hindrance]:
    if volume.held_back is not None:
        text = f"access to {volume.path} waits: {volume.held_back}"
        return [Hindrance(text, "" if volume.refusal is not None else _command("confirm", status, volume.path))]
    if volume.access is not Access.SUSPENDED:
        return []
    text = f"access to {volume.path} is suspended"
    if not volume.present:
        return [Hindrance(f"{text}: the instance does not have it now, and it comes back with it")]
    if volume.refusal is not None:
        return [Hindrance(f"{text}: what is there now cannot be shared: {volume.refusal}")]
    text = f"{text}: another volume stands there now. Look whose that is, then confirm"
    return [Hindrance(text, _command("confirm", status, volume.path))]


def _enabling(status: InstanceStatus) -> str:
    """The command that shares what can be shared; none where that is nothing, or where access waits already."""
    off = [volume.path for volume in status.volumes if volume.access is Access.OFF and volume.refusal is None]
    waits = any(volume.access is Access.SUSPENDED or volume.held_back is not None for volume in status.volumes)
    if not off or waits:
        return ""
    return _command("enable", status, off[0]) if len(off) == 1 else _command("enable", status, options=("--all",))


def _command(name: str, status: InstanceStatus, *paths: str, options: tuple[str, ...] = ()) -> str:
    named = (str(status.key), *paths)
    if any(one.startswith("-") for one in named):  # a project may be called like an option
        return shell_command(["hatchway", name, *options, "--", *named])
    return shell_command(["hatchway", name, *named, *options])
