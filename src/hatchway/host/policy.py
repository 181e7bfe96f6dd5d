"""What hostd accepts from the core. A broken core cannot make it mount /etc or publish a `root`.

Pure checks, apart from asking the host which names and uids it already has.
"""

from __future__ import annotations

import fnmatch
import hashlib

from hatchway import accounts, model
from hatchway.config import Config
from hatchway.errors import ConflictError, RefusedError, UsageError
from hatchway.model import (
    DEPTH_MAX,
    ID_MAX,
    RESERVED_PREFIXES,
    VOLUMES_MAX,
    IdPair,
    Limits,
    below,
    valid_login,
    valid_volume_path,
)
from hatchway.volumefs.delivery import KEY_MAX
from hatchway.wire.host import HASHES_MAX, Usage, UserRecord, View


def check_login(config: Config, login: str, uid: int) -> None:
    """Raise RefusedError unless `login` fits the grammar and `uid` (None-free) is in the range for logins."""
    first, last = config.ids.login_uids
    if not valid_login(login):
        raise RefusedError(f"{login!r} is no login")
    if not first <= uid <= last:
        raise RefusedError(f"uid {uid} of {login} is outside ids.login_uids {first}-{last}")


def check_record(config: Config, record: UserRecord, own: dict[str, int]) -> None:
    """Raise RefusedError for a record that may not be published, ConflictError for a name or uid the host has.

    `own` are the names and uids of records that are ours already.
    """
    check_login(config, record.login, record.uid)
    if record.home != "/" and not valid_volume_path(record.home):
        raise RefusedError(f"home {record.home!r} of {record.login} is no path")
    if record.login in config.ids.names:
        raise ConflictError(f"{record.login} is one of Hatchway's own accounts")
    if own.get(record.login) == record.uid:
        return
    if record.login in own or record.uid in own.values():
        raise ConflictError(f"{record.login} or uid {record.uid} is already another login")
    if accounts.name_taken(record.login) or accounts.uid_taken(record.uid):
        raise ConflictError(f"the host already has an account or group {record.login} or uid {record.uid}")


def check_views(config: Config, views: tuple[View, ...]) -> None:
    """Raise RefusedError for a view that may not stand in a session's root."""
    if len(views) > VOLUMES_MAX:
        raise RefusedError(f"{len(views)} volumes for one login; {VOLUMES_MAX} are allowed")
    paths = [view.path for view in views]
    for view in views:
        if not valid_volume_path(view.path):
            raise RefusedError(f"{view.path!r} is no path for a volume")
        reserved = [prefix for prefix in RESERVED_PREFIXES if prefix != "/volumes" and below(view.path, prefix)]
        if reserved or view.path == "/volumes":
            raise RefusedError(f"a volume cannot stand at {view.path}: sshd's look-ups inside the chroot read there")
        if view.path.count("/") > DEPTH_MAX:
            raise RefusedError(f"{view.path} is too deep: {DEPTH_MAX} directories at most")
        if paths.count(view.path) != 1:
            raise RefusedError(f"{view.path} is named twice for the same login")
        check_owner(view.owner)
        if view.umask is not None and not 0 <= view.umask <= 0o777:
            raise RefusedError(f"{view.umask} is no umask")
        check_limits(view.limits)
        check_within(view.folder)
        if not view.optional:
            # Else it is looked at when it is opened, as of any: only that one is left out then.
            check_source(config, view.source)


def check_limits(limits: Limits) -> None:
    """Raise RefusedError for limits that no volume can have."""
    try:
        model.check_limits(limits)
    except UsageError as exc:
        raise RefusedError(str(exc)) from exc


def check_usage(known: Usage | None) -> None:
    """Raise RefusedError for what no volume can have in it."""
    if known is not None and not all(0 <= number < 1 << 62 for number in (known.size, known.files, known.measured_at)):
        raise RefusedError(f"{known} cannot be in a volume")


def private_directories(config: Config) -> tuple[str, ...]:
    """Directories of ours, which are never shared, nor what holds them."""
    return (config.paths.state_dir, config.paths.run_dir, config.sshd.host_key_dir, "/etc/hatchway")


def check_source(config: Config, source: str) -> tuple[str, str]:
    """The configured root `source` lies beneath and the rest of its path ("" for a bind prefix itself).

    A volume of the engine must be `<root>/<name>/_data` or, for a subpath, beneath that. Raises RefusedError for
    anything else.
    """
    if not valid_volume_path(source):
        raise RefusedError(f"{source!r} is no path of a volume")
    if any(below(source, own) or below(own, source) for own in private_directories(config)):
        raise RefusedError(f"{source} is, holds or lies in a directory of Hatchway itself")
    for root in config.host.volume_roots:
        if below(source, root):
            rest = source[len(root) :].strip("/")
            name, _, data = rest.partition("/")
            if name and below(data, "_data"):
                return root, rest
            raise RefusedError(f"{source} is no volume's contents: expected {root}/<name>/_data")
    for prefix in config.host.bind_prefixes:
        if below(source, prefix):
            return prefix, source[len(prefix) :].strip("/")
    allowed = ", ".join((*config.host.volume_roots, *config.host.bind_prefixes)) or "there are none"
    raise RefusedError(f"{source} lies beneath none of host.volume_roots and host.bind_prefixes ({allowed})")


def check_directory(config: Config, device: str) -> tuple[str, str]:
    """As `check_source`, for the directory of the host that a volume's options name.

    That it comes as a volume makes it no more than a bind mount: people get round the rules for bind mounts of their
    platform that way. Raises RefusedError.
    """
    if any(below(device, root) or below(root, device) for root in config.host.volume_roots):
        raise RefusedError(f"{device} is, holds or lies in the engine's volumes, and no volume is made of those")
    return check_source(config, device)


def check_birth(birth: str) -> None:
    """Raise RefusedError unless `birth` says which directory it is: nothing is read from, or put into, just any."""
    if not birth:
        raise RefusedError("it is not said which directory it is")


def check_within(directory: str) -> tuple[bytes, ...]:
    """The names that lead to `directory`, relative to a volume's root, which is "". Raises RefusedError."""
    if not directory:
        return ()
    if not valid_volume_path(f"/{directory}") or directory.count("/") >= DEPTH_MAX:
        raise RefusedError(f"{directory!r} is no directory of a volume")
    return tuple(name.encode() for name in directory.split("/"))


def check_hashes(hashes: tuple[bytes, ...]) -> None:
    """Raise RefusedError unless these are SHA-256 digests, and not very many."""
    if len(hashes) > HASHES_MAX or any(len(one) != hashlib.sha256().digest_size for one in hashes):
        raise RefusedError(f"expected at most {HASHES_MAX} SHA-256 digests")


def check_private(data: bytes) -> None:
    """Raise RefusedError unless `data` can be a private key's file."""
    if not 0 < len(data) <= KEY_MAX:
        raise RefusedError(f"a private key has 1 to {KEY_MAX} bytes")


def check_owner(owner: IdPair | None) -> None:
    """Raise RefusedError for ids that nobody can have."""
    if owner is not None and not (0 <= owner.uid <= ID_MAX and 0 <= owner.gid <= ID_MAX):
        raise RefusedError(f"{owner} cannot be an owner")


def check_device(config: Config, device: str) -> None:
    """Raise RefusedError unless host.volume_devices allows the block device `device`, a normalised path."""
    parts = device.split("/")
    for pattern in config.host.volume_devices:
        wanted = pattern.split("/")
        # By component: "*" would else reach into every directory below, /dev/shm among them.
        if len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            return
    allowed = ", ".join(config.host.volume_devices) or "there are none"
    raise RefusedError(f"{device} is none of host.volume_devices ({allowed})")
