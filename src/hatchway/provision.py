"""Accounts, directories and sockets of the processes, as units and package would have made them.

What is somebody else's is not touched: a directory that holds anything not ours, a port that is taken.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hatchway import log
from hatchway.config import Config, Web
from hatchway.errors import ConfigError, ConflictError, HostError
from hatchway.host.records import Records
from hatchway.kernel import mounts


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that is made for a process before it starts.

    `role` is the account whose group may connect, as root may; None: only root.
    """

    path: str
    role: str | None = None
    kind: socket.SocketKind = socket.SOCK_STREAM


def listening(config: Config) -> dict[str, Listening]:
    """All sockets by name. The package's units hatchway-<name>.socket make the same."""
    web = {
        "web": Listening(config.web_socket, "web"),
        "signin": Listening(config.signin_socket, "core"),
    }
    return {
        # sshd's key helper and, as root, its PAM helper.
        "auth": Listening(config.auth_socket, "keys"),
        "admin": Listening(config.admin_socket),
        "hostd": Listening(config.hostd_socket, "core"),
        "catalog": Listening(config.catalog_socket, "catalog"),
        # One request to the workers' parent is one packet, with descriptors.
        "workers": Listening(config.workers_socket, kind=socket.SOCK_SEQPACKET),
        **(web if config.web.enabled else {}),
    }


SERVICES = ("workers", "hostd", "core", "catalog", "sshd")
"""The processes, in the order in which they start."""

WEB_FILES = frozenset({"certificate.pem", "certificate.new", "key.pem", "key.new"})
"""What the web process keeps."""

WEB_SERVICES = ("signin", "web")
"""Those there are as well with web.enabled."""

RUN_FILES = frozenset(
    {
        "lock",
        "pam-service-made",
        "signin-service-made",
        *(os.path.basename(one.path) for one in listening(Config(web=Web(enabled=True))).values()),
        *(f"notify-{name}.sock" for name in (*SERVICES, *WEB_SERVICES)),
    }
)
"""What we make in the run directory, besides the directories `sshd`, `mnt` and `handover`."""

BACKLOG = 128
"""How many wait at a socket while its process is away or busy."""

STATE_FILES = frozenset(
    {
        "registry.sqlite",
        "registry.sqlite-wal",
        "registry.sqlite-shm",
        "registry.sqlite-journal",
        "registry.sqlite-reserve",
        "sealing.key",
        "sealing.key.new",
        "lost+found",
    }
)
"""What the core makes in the state directory."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of one of our processes."""

    name: str
    uid: int
    gid: int


def accounts(config: Config, records: Records) -> dict[str, Account]:
    """The accounts of our processes by role: the host's if it has them, else records of ours for as long as we run."""
    first = config.ids.service_uids[0]
    accounts = {"root": Account("root", 0, 0)}
    names = {"core": config.ids.core_user, "catalog": config.ids.catalog_user, "keys": config.ids.keys_user}
    offsets = {role: offset for offset, role in enumerate(names)}
    group_offset = len(names)
    if config.web.enabled:
        # Behind the group: whether there is a web process must not change the numbers of the others.
        names["web"] = config.ids.web_user
        offsets["web"] = group_offset + 1
    for role, name in names.items():
        entry = _host_user(name)
        if entry is None or records.users().get(name) is not None:
            records.publish_service(name, first + offsets[role])
            entry = _host_user(name)
        if entry is None:
            raise HostError(
                f"user {name} was published in {config.paths.userdb_dir} but name look-ups do not find it: "
                "install libnss-systemd and have 'systemd' in the passwd and group lines of /etc/nsswitch.conf"
            )
        accounts[role] = entry
    try:
        grp.getgrnam(config.ids.session_group)
    except KeyError:
        records.publish_group(config.ids.session_group, first + group_offset)
    uids = [account.uid for account in accounts.values()]
    if len(set(uids)) != len(uids):
        raise ConflictError(f"the accounts of [ids] share a uid: {accounts}")
    return accounts


def _own_directory(directory: str, ours: frozenset[str], key: str, mode: int) -> None:
    """Make `directory`, or make sure that it holds nothing but what is `ours`: it gets our owner and mode.

    Raises ConfigError for a directory of somebody else, such as /var/lib itself.
    """
    os.makedirs(directory, mode=mode, exist_ok=True)
    names = set(os.listdir(directory))
    # Once it has a registry it is ours, whatever an operator keeps beside it.
    foreign = sorted(names - ours) if "registry.sqlite" not in names else []
    if foreign:
        raise ConfigError(
            f"{key} = {directory!r}: this directory holds {foreign[0]!r}, which is not Hatchway's; "
            "name a directory of its own"
        )
    os.chmod(directory, mode)


def _host_user(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def state_directory(config: Config, core: Account) -> None:
    """Make the state directory, or make it the account `core`'s with what is in it. Raises ConfigError."""
    directory = config.paths.state_dir
    _own_directory(directory, STATE_FILES, "paths.state_dir", 0o700)
    os.chown(directory, core.uid, core.gid)
    os.chmod(directory, 0o700)
    # An account published anew may have another uid than the one the files were made with. The directory is the core's,
    # which may have been broken into: a link in it must not make us give it a file of somebody else's.
    for name in os.listdir(directory):
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid not in (0, core.uid):
                os.fchown(fd, core.uid, core.gid)
        finally:
            os.close(fd)


def web_directory(config: Config, web: Account) -> None:
    """Make the directory of the web process. Raises ConfigError."""
    _own_directory(config.web_dir, WEB_FILES, "paths.state_dir", 0o700)
    os.chown(config.web_dir, web.uid, web.gid)
    for name in os.listdir(config.web_dir):
        # An account published anew may have another uid.
        os.chown(os.path.join(config.web_dir, name), web.uid, web.gid, follow_symlinks=False)


@contextmanager
def run_directory(config: Config) -> Iterator[None]:
    """The run directory, for one `hatchway run` at a time. Raises ConfigError, ConflictError."""
    directory = config.paths.run_dir
    _own_directory(directory, RUN_FILES | {"sshd", "mnt", "handover"}, "paths.run_dir", 0o755)
    lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another 'hatchway run', or its units (systemctl stop hatchway), use {directory}"
            ) from None
        for name in sorted(RUN_FILES):
            if _listening(f"{directory}/{name}"):
                raise ConflictError(
                    f"somebody listens at {directory}/{name}; if it is the units: systemctl stop hatchway"
                )
        try:
            yield
        finally:
            _remove_run_directory(config)
    finally:
        os.close(lock)


def _listening(path: str) -> bool:
    """Whether a process or systemd listens at the stream socket `path`."""
    if not path.endswith(".sock"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        error = sock.connect_ex(path)
    # Full (EAGAIN), or of another kind (EPROTOTYPE): somebody does. What was left behind refuses the connection.
    return error in (0, errno.EAGAIN, errno.EPROTOTYPE)


def _remove_run_directory(config: Config) -> None:
    directory = config.paths.run_dir
    if any(entry.target.startswith(f"{config.mount_dir}/") for entry in mounts.mount_table()):
        log.get().error("mounts are left", directory=config.mount_dir)
        return
    if any(entry.target == config.mount_dir for entry in mounts.mount_table()):
        mounts.unmount(config.mount_dir, mounts.MNT_DETACH)
    # Only what we made: the directory is whatever the configuration says it is.
    for made in ("sshd", "handover"):
        shutil.rmtree(f"{directory}/{made}", ignore_errors=True)
    for name in RUN_FILES:
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
    for path in (config.mount_dir, directory):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            log.get().error("not removed", directory=path, error=str(exc))


@contextmanager
def sockets(config: Config, accounts: dict[str, Account]) -> Iterator[dict[str, socket.socket]]:
    """The listening sockets: made here, so that owner and mode are right before anybody can connect."""
    made: dict[str, socket.socket] = {}
    try:
        for name, one in listening(config).items():
            sock = made[name] = socket.socket(socket.AF_UNIX, one.kind)
            bind(sock, one.path, 0, 0 if one.role is None else accounts[one.role].gid)
            os.chmod(one.path, 0o600 if one.role is None else 0o660)
            sock.listen(BACKLOG)
        yield made
    finally:
        for sock in made.values():
            sock.close()


def bind(sock: socket.socket, path: str, uid: int, gid: int) -> None:
    """Bind the Unix socket `sock` at `path`, mode 0600 and theirs, in place of what is there. Raises OSError."""
    if os.path.lexists(path):
        os.unlink(path)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    os.chown(path, uid, gid)


def engine_groups(config: Config) -> tuple[int, ...]:
    """The group that may use the engine's socket. It is root-equivalent, so only the catalog has it."""
    if not config.engine.enabled:
        return ()
    try:
        status = os.stat(config.engine.url.removeprefix("unix://"))
    except OSError:
        try:
            return (grp.getgrnam("docker").gr_gid,)
        except KeyError:
            return ()
    return (status.st_gid,) if status.st_gid != 0 and stat.S_IMODE(status.st_mode) & 0o060 == 0o060 else ()


def require_free_port(config: Config) -> None:
    """Raise ConflictError when another program has sshd's port: it, not we, would be what clients reach."""
    for address in config.sshd.listen:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                # As sshd does; a connection of ours that is still being closed is no other program.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, config.sshd.port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"port {config.sshd.port} of {address} is taken by another program; "
                    "stop it, or set sshd.port to another one"
                ) from None
            # No IPv6 here, or an address that comes later: sshd says which of its addresses it could use.
