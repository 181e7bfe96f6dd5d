"""Every way in at once, for `hatchway show`."""

from __future__ import annotations

from hatchway.connect import filezilla, links, openssh
from hatchway.connect.filezilla import FileZillaSite
from hatchway.connect.keyfiles import key_file_name, ppk_file_name
from hatchway.wire.admin import ConnectionInfo
from hatchway.wire.entry import Confidential


class Directions(Confidential, frozen=True, kw_only=True):
    """Each ready to be copied. None where the login has no such credential.

    `key_file` and `ppk_file` are the names `hatchway key export` gives the private key; the commands expect it in the
    current directory.
    """

    url: str
    winscp_url: str
    key_file: str | None
    ppk_file: str | None
    sftp_with_key: str | None
    sftp_with_password: str | None
    sftp_with_own_key: str | None
    filezilla: tuple[FileZillaSite, ...]


def directions(info: ConnectionInfo) -> Directions:
    """All of it."""
    has_key = info.key_fingerprint is not None
    return Directions(
        url=links.url(info),
        winscp_url=links.winscp_url(info),
        key_file=key_file_name(info.login) if has_key else None,
        ppk_file=ppk_file_name(info.login) if has_key else None,
        sftp_with_key=openssh.sftp_with_key(info),
        sftp_with_password=openssh.sftp_with_password(info),
        sftp_with_own_key=openssh.sftp_with_own_key(info),
        filezilla=filezilla.fields(info),
    )
