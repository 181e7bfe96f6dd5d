"""The dedicated sshd's host keys: made once, then kept for good, since clients remember them.

ssh-keygen(1) makes them; this module never reads a private key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hatchway.errors import HostError
from hatchway.sshd.files import replace
from hatchway.sshd.render import HOST_KEYS
from hatchway.wire.admin import HostKey

_ORDER = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")

_TYPES = {"ssh_host_ed25519_key": ("-t", "ed25519"), "ssh_host_rsa_key": ("-t", "rsa", "-b", "3072")}


def ensure(directory: str) -> tuple[HostKey, ...]:
    """Make what is missing in `directory` (created 0755) and return all keys, ed25519 first.

    Private keys are 0600, public ones 0644, owned by the caller, which is root. Raises HostError.
    """
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for name in HOST_KEYS:
            private = f"{directory}/{name}"
            if not os.path.exists(private):
                _make(directory, name)
            elif not os.path.exists(f"{private}.pub"):
                replace(f"{private}.pub", _keygen("-y", "-f", private), 0o644)
            os.chmod(private, 0o600)
    except OSError as exc:
        raise HostError(f"host keys in {directory}: {exc}") from exc
    return read(directory)


def read(directory: str) -> tuple[HostKey, ...]:
    """The public keys in `directory`, ed25519 first. Needs no privileges. Raises HostError."""
    return tuple(_public(f"{directory}/{name}.pub") for name in HOST_KEYS)


def of(files: Iterable[str]) -> tuple[HostKey, ...]:
    """The public halves of the private keys in `files`, ed25519 first; of kinds that clients of today do not use, none.

    Raises HostError, also when there is none.
    """
    found = [_public(f"{file}.pub") for file in files]
    found = sorted((key for key in found if key.algorithm in _ORDER), key=lambda key: _ORDER.index(key.algorithm))
    if not found:
        raise HostError("the host's sshd has no host key that clients could be told of")
    return tuple(found)


def parse(line: str) -> HostKey:
    """Read one public key line, "type base64 [comment]". Raises ValueError.

    The fingerprint is that of `ssh-keygen -l`: "SHA256:" and the unpadded base64 of the digest.
    """
    algorithm, blob, *_ = [*line.split(), "", ""]
    raw = base64.b64decode(blob, validate=True)
    # RFC 4253, 6.6: the blob begins with the algorithm's name as a string (RFC 4251, 5).
    if not algorithm or not raw.startswith(len(algorithm).to_bytes(4, "big") + algorithm.encode()):
        raise ValueError(f"no public key: {line[:80]!r}")
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    return HostKey(algorithm, f"SHA256:{digest}", f"{algorithm} {blob}")


def _public(path: str) -> HostKey:
    try:
        return parse(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError, binascii.Error) as exc:
        raise HostError(f"host key {path}: {exc}") from exc


def _make(directory: str, name: str) -> None:
    """Make one pair beside its place and move it there, public half first: a private key is only ever whole."""
    made = f"{directory}/.{name}.new"
    for leftover in (made, f"{made}.pub"):
        if os.path.exists(leftover):
            os.unlink(leftover)
    _keygen("-q", *_TYPES[name], "-N", "", "-C", "hatchway", "-f", made)
    os.rename(f"{made}.pub", f"{directory}/{name}.pub")
    os.rename(made, f"{directory}/{name}")


def _keygen(*args: str) -> str:
    """Run ssh-keygen and return its output. Raises HostError with its own words."""
    try:
        done = subprocess.run(
            ["ssh-keygen", *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            umask=0o022,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise HostError(f"ssh-keygen: {exc}") from exc
    if done.returncode != 0:
        raise HostError(f"ssh-keygen failed: {(done.stderr + done.stdout).strip()}")
    return done.stdout
