"""rclone: a section of its configuration file for each login."""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hatchway.connect.keyfiles import in_directory, key_file_name
from hatchway.connect.logon import Logon
from hatchway.errors import UsageError
from hatchway.printable import escaped
from hatchway.wire.admin import ConnectionInfo

_OBSCURING_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
"""In every rclone, and known to everybody: obscuring hides a password from a glance only (rclone.org, "obscure")."""


def section(info: ConnectionInfo, logon: Logon, directory: str) -> str:
    """The remote called like the login. In `directory`, on the computer where rclone runs, are known_hosts, without
    which rclone would trust any host key, and the private key.

    The server runs no commands, so rclone need not try whether it does. Raises UsageError for a directory that rclone
    would read as another one.
    """
    if directory != directory.strip() or any(mark in directory for mark in ("$", "%(", "`")):
        raise UsageError(
            f"the directory '{directory}' is not allowed: to rclone $ and %( begin variables, a backquote is a "
            "quotation mark, and blanks around it are nothing"
        )
    lines = [
        f"# {escaped(info.whose)}",
        f"[{info.login}]",
        "type = sftp",
        f"host = {info.host}",
        f"port = {info.port}",
        f"user = {info.login}",
    ]
    match logon:
        case Logon.KEY:
            lines.append(f"key_file = {in_directory(directory, key_file_name(info.login))}")
        case Logon.PASSWORD:
            assert info.password is not None
            lines.append(f"pass = {obscured(info.password)}")
        case Logon.ASK:
            lines.append("ask_password = true")
        case Logon.OWN_KEY:
            lines.append("key_use_agent = true")
    lines += [
        f"known_hosts_file = {in_directory(directory, 'known_hosts')}",
        "shell_type = none",
        "md5sum_command = none",
        "sha1sum_command = none",
    ]
    return "\n".join(lines) + "\n"


def obscured(password: str) -> str:
    """`password` as `rclone obscure` writes it, each time another text."""
    iv = os.urandom(16)
    encryptor = Cipher(algorithms.AES256(_OBSCURING_KEY), modes.CTR(iv)).encryptor()
    hidden = iv + encryptor.update(password.encode()) + encryptor.finalize()
    return base64.urlsafe_b64encode(hidden).decode("ascii").rstrip("=")
