"""OpenSSH: command lines, a block of ssh_config(5), lines of known_hosts (sshd(8)), and SSHFP records for the DNS."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex

from hatchway.connect import hosts
from hatchway.connect.keyfiles import in_directory, key_file_name
from hatchway.connect.logon import Logon
from hatchway.errors import UsageError
from hatchway.printable import escaped
from hatchway.wire.admin import ConnectionInfo, HostKey, Server
from hatchway.wire.entry import PasswordKind

_USUAL_PORT = 22

_SSHFP_ALGORITHMS = {
    "ssh-rsa": 1,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "ssh-ed25519": 4,
}
"""RFC 4255, 3.1.1, RFC 6594, 3.1 and RFC 7479."""
_SSHFP_SHA256 = 2
"""RFC 6594, 4.1."""


def sftp_with_key(info: ConnectionInfo) -> str | None:
    """The command for the generated key in the current directory, quoted for a POSIX shell. None when there is none.

    IdentitiesOnly: an agent that offers many keys would use up the attempts sshd allows.
    """
    if info.key_fingerprint is None:
        return None
    key = key_file_name(info.login)
    return shlex.join(["sftp", "-P", str(info.port), "-o", "IdentitiesOnly=yes", "-i", key, _target(info)])


def sftp_with_own_key(info: ConnectionInfo) -> str | None:
    """The command for a key that whoever connects has. None where none was added, nor is in a volume."""
    if not info.keys and not info.volume_keys:
        return None
    return shlex.join(["sftp", "-P", str(info.port), _target(info)])


def sftp_with_password(info: ConnectionInfo) -> str | None:
    """The command that asks for the password, quoted for a POSIX shell. None for a key-only login."""
    if info.password_kind is PasswordKind.NONE:
        return None
    return shlex.join(["sftp", "-P", str(info.port), "-o", "PubkeyAuthentication=no", _target(info)])


def config_block(info: ConnectionInfo, logon: Logon, key_dir: str) -> str:
    """A `Host` block by which `sftp <login>` connects. `key_dir` is where the generated key lies. No password stands in
    it.

    Where it is the first that says something of this host, no host key is trusted but those in known_hosts, which
    `known_hosts` gives lines for. Raises UsageError for a directory that ssh would read as another one.
    """
    lines = [
        f"# {escaped(info.whose)}",
        f"Host {info.login}",
        f"    HostName {info.host}",
        f"    Port {info.port}",
        f"    User {info.login}",
    ]
    match logon:
        case Logon.KEY:
            lines += [f"    IdentityFile {_quoted(in_directory(key_dir, key_file_name(info.login)))}"]
            lines += ["    IdentitiesOnly yes"]
        case Logon.ASK | Logon.PASSWORD:
            lines += ["    PreferredAuthentications password", "    PubkeyAuthentication no"]
        case Logon.OWN_KEY:
            pass
    lines.append("    StrictHostKeyChecking yes")
    return "\n".join(lines) + "\n"


def _quoted(path: str) -> str:
    """As one argument of ssh_config(5), without tokens and variables. A backslash is one, except where it would make
    what is behind it lose its meaning."""
    if "${" in path:
        raise UsageError(f"the path '{path}' is not allowed: ssh takes ${{ for a variable of the environment")
    return '"' + re.sub(r"\\(?=[\\'])", r"\\\\", path).replace("%", "%%") + '"'


def known_hosts(server: Server) -> str:
    """A line for each host key."""
    host = server.host if server.port == _USUAL_PORT else f"[{server.host}]:{server.port}"
    return "".join(f"{host} {key.public}\n" for key in server.host_keys)


def sshfp(server: Server) -> str:
    """A record for each host key, as `ssh-keygen -r` writes them (RFC 4255). Raises UsageError for an address.

    They know no port: of one name all sshds' records stand side by side.
    """
    if hosts.is_address(server.host):
        raise UsageError(f"{server.host} is an address, and SSHFP records are a name's: set connect.host to a name")
    return "".join(_sshfp(server.host, key) for key in server.host_keys if key.algorithm in _SSHFP_ALGORITHMS)


def _sshfp(host: str, key: HostKey) -> str:
    digest = hashlib.sha256(base64.b64decode(key.public.split()[1])).hexdigest()
    name = host if "." not in host else f"{host.rstrip('.')}."
    return f"{name} IN SSHFP {_SSHFP_ALGORITHMS[key.algorithm]} {_SSHFP_SHA256} {digest}\n"


def _target(info: ConnectionInfo) -> str:
    return f"{info.login}@{hosts.bracketed(info.host)}"
