"""Connection information in the forms clients take: URL, sftp command lines, FileZilla's fields.

Pure: no I/O, no state. A password appears where ConnectionInfo holds one, nowhere else. Sources: RFC 3986 for the
URL, sftp(1) and ssh_config(5) for the commands, FileZilla's site manager for its field names.
"""

from __future__ import annotations

import shlex
from urllib.parse import quote

import msgspec

from hatchway.wire.admin import (
    ConnectionInfo,
)
from hatchway.wire.entry import (
    PasswordKind,
)


class FileZillaSite(msgspec.Struct, frozen=True, kw_only=True):
    """What to enter in FileZilla's site manager; field by field its own labels. None: leave the field alone.

    `logon_type` is "Key file", "Normal" (with `password`) or "Ask for password".
    """

    protocol: str
    host: str
    port: int
    logon_type: str
    user: str
    password: str | None = None
    key_file: str | None = None


class Directions(msgspec.Struct, frozen=True, kw_only=True):
    """Every way in, each ready to be copied. None where the login has no such credential.

    `key_file` is the name `hatchway key export` gives the private key; the commands expect it in the current
    directory.
    """

    url: str
    key_file: str | None
    sftp_with_key: str | None
    sftp_with_password: str | None
    filezilla: tuple[FileZillaSite, ...]


def key_file_name(login: str) -> str:
    """The name a private key is saved under: `id_container-<login>`."""
    return f"id_container-{login}"


def directions(info: ConnectionInfo) -> Directions:
    """All of it."""
    return Directions(
        url=url(info),
        key_file=key_file_name(info.login) if info.key_fingerprint is not None else None,
        sftp_with_key=sftp_with_key(info),
        sftp_with_password=sftp_with_password(info),
        filezilla=filezilla(info),
    )


def url(info: ConnectionInfo) -> str:
    """The plain `sftp://user[:password]@host:port/`, percent-encoded (RFC 3986).

    Without parameters: programs that do not know them misread the whole. With a password kept raw and shown it logs
    straight in; otherwise the program asks.
    """
    user = quote(info.login, safe="")
    if info.password is not None:
        user += ":" + quote(info.password, safe="")
    return f"sftp://{user}@{_url_host(info.host)}:{info.port}/"


def sftp_with_key(info: ConnectionInfo) -> str | None:
    """The OpenSSH command for the generated key, quoted for a POSIX shell. None when there is no key.

    IdentitiesOnly: an agent that offers many keys would use up the attempts sshd allows.
    """
    if info.key_fingerprint is None:
        return None
    key = key_file_name(info.login)
    return shlex.join(["sftp", "-P", str(info.port), "-o", "IdentitiesOnly=yes", "-i", key, _target(info)])


def sftp_with_password(info: ConnectionInfo) -> str | None:
    """The OpenSSH command that asks for the password, quoted for a POSIX shell. None for a key-only login."""
    if info.password_kind is PasswordKind.NONE:
        return None
    return shlex.join(["sftp", "-P", str(info.port), "-o", "PubkeyAuthentication=no", _target(info)])


def filezilla(info: ConnectionInfo) -> tuple[FileZillaSite, ...]:
    """FileZilla's fields, one set per credential, the key first."""
    sites = []
    if info.key_fingerprint is not None:
        sites.append(_site(info, "Key file", key_file=key_file_name(info.login)))
    if info.password_kind is not PasswordKind.NONE:
        logon_type = "Ask for password" if info.password is None else "Normal"
        sites.append(_site(info, logon_type, password=info.password))
    return tuple(sites)


def _site(
    info: ConnectionInfo, logon_type: str, *, password: str | None = None, key_file: str | None = None
) -> FileZillaSite:
    return FileZillaSite(
        protocol="SFTP - SSH File Transfer Protocol",
        host=info.host,
        port=info.port,
        logon_type=logon_type,
        user=info.login,
        password=password,
        key_file=key_file,
    )


def _target(info: ConnectionInfo) -> str:
    # sftp(1) ends a host at its first colon: an IPv6 address needs brackets here too.
    return f"{info.login}@{_bracketed(info.host)}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _url_host(host: str) -> str:
    if ":" in host:
        # RFC 6874: a zone's percent sign is encoded.
        return _bracketed(host.replace("%", "%25"))
    return quote(host, safe="")
