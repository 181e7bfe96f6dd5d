"""Links that open a program: the plain one, and WinSCP's, which names host key and key file as well."""

from __future__ import annotations

import re
from urllib.parse import quote

from hatchway.connect import hosts
from hatchway.connect.keyfiles import in_directory, ppk_file_name
from hatchway.wire.admin import ConnectionInfo, HostKey

_PLAIN = re.compile(r"/|(?:/[A-Za-z0-9._-]+)+")
"""Paths that are written in a URL as they are. Not every program decodes others, and to curl a `~` is the home."""


def url(info: ConnectionInfo) -> str:
    """The plain `sftp://user[:password]@host:port/start/`, percent-encoded (RFC 3986).

    Without parameters: programs that do not know them misread the whole. With a password kept raw and shown it logs
    straight in; otherwise the program asks. The path is where the session starts, or `/` where that has characters
    that would have to be encoded.
    """
    user = quote(info.login, safe="")
    if info.password is not None:
        user += ":" + quote(info.password, safe="")
    return f"sftp://{user}@{_rest(info)}"


def winscp_url(info: ConnectionInfo, key_dir: str | None = None) -> str:
    """The link with the host key's fingerprint, so that WinSCP asks nothing about a host that it has never seen.

    With `key_dir`, a directory on the computer of whoever connects, it names the .ppk there as the key to use, if the
    login has one. Source: winscp.net/eng/docs/session_url. The fingerprint there is the key's type and, behind a dash,
    the SHA-256 digest in the base64 of RFC 4648, 5.
    """
    user = quote(info.login, safe="")
    if info.password is not None:
        user += ":" + quote(info.password, safe="")
    key = _shown_first(info.host_keys)
    digest = key.fingerprint.removeprefix("SHA256:").replace("+", "-").replace("/", "_")
    user += f";fingerprint={quote(f'{key.algorithm}-{digest}', safe='')}"
    if key_dir is not None and info.key_fingerprint is not None:
        user += f";x-publickeyfile={quote(in_directory(key_dir, ppk_file_name(info.login)), safe='')}"
    return f"sftp://{user}@{_rest(info)}"


def _rest(info: ConnectionInfo) -> str:
    start = info.start_directory if _PLAIN.fullmatch(info.start_directory) else "/"
    return f"{hosts.in_url(info.host)}:{info.port}{start.rstrip('/')}/"


def _shown_first(host_keys: tuple[HostKey, ...]) -> HostKey:
    """The key that WinSCP takes when it has never seen the host: it prefers Ed25519 to RSA, as its manual says."""
    return next((key for key in host_keys if key.algorithm == "ssh-ed25519"), host_keys[0])
