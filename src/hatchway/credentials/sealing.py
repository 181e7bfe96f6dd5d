"""Sealing: how secrets that must be shown again are kept in the registry.

The key lies in a file of its own, so that neither a copy of the database nor the key alone reveals anything. It is
used as an AEAD (XChaCha20-Poly1305) whose associated data says what the secret is: a sealed value that somebody moved
to another row does not open there. Against whoever can read both files this is no protection.
"""

from __future__ import annotations

import errno
import os
import secrets
from typing import NoReturn, final

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from hatchway.credentials.private_file import require_private
from hatchway.credentials.secret import DamagedSecretError, Secret
from hatchway.errors import ConfigError

_FORMAT = b"\x01"
"""First byte of every sealed value: the one format there is, version byte + 24-byte nonce + ciphertext and tag."""

_OVERHEAD = len(_FORMAT) + Aead.NONCE_SIZE + Aead.MACBYTES
"""Bytes that sealing adds. PyNaCl answers anything shorter with an exception that is none of its own."""


@final
class SealingKey:
    """A 32-byte key that seals and unseals secrets. Safe to use from several threads."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        if len(key) != Aead.KEY_SIZE:
            raise ValueError(f"a sealing key has {Aead.KEY_SIZE} bytes, not {len(key)}")
        self._aead = Aead(key)

    @classmethod
    def load_or_create(cls, path: str) -> SealingKey:
        """The key in the file `path`, which is made (mode 0600) if there is none. Its directory must exist.

        Any number of processes may do this at once; all get the same key. Raises ConfigError, with what to do, when
        the file is not a regular file of 32 bytes that the running user alone may read, or cannot be made.
        """
        try:
            key = _read(path)
            if key is None:
                _create(path)
                # Read back and not remembered: another process may have been faster, and its key is the one.
                key = _read(path)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise ConfigError(f"{path}: a symbolic link; put the sealing key itself there") from exc
            raise ConfigError(f"{path}: the sealing key cannot be read or made: {exc.strerror}") from exc
        if key is None:
            raise ConfigError(f"{path}: the sealing key was removed as soon as it was made")
        return cls(key)

    def seal(self, secret: Secret, context: str) -> bytes:
        """`secret` sealed for `context`, such as "password:shop-web-1". The same secret never seals to the same."""
        return _FORMAT + bytes(self._aead.encrypt(secret.reveal().encode(), _associated(context)))

    def unseal(self, sealed: bytes, context: str) -> Secret:
        """The secret in `sealed`, if this key sealed it for `context`. Raises DamagedSecretError otherwise."""
        text: str | None = None
        if sealed[:1] == _FORMAT and len(sealed) >= _OVERHEAD:
            try:
                text = self._aead.decrypt(sealed[1:], _associated(context)).decode()
            except CryptoError:
                pass  # raised below, where the exception has no context to show
        if text is None:
            raise DamagedSecretError(
                f"{context}: the stored secret does not open: it was changed, moved here from another place, or "
                "sealed with another key. Put the sealing key of this registry back, or make a new credential"
            )
        return Secret(text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealing key is neither pickled nor copied")


def _associated(context: str) -> bytes:
    return _FORMAT + context.encode()


def _read(path: str) -> bytes | None:
    """The key in `path`, None when there is no such file. Raises OSError and ConfigError."""
    try:
        # O_NONBLOCK: a FIFO in its place would otherwise hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        require_private(path, status)
        if status.st_size != Aead.KEY_SIZE:
            raise ConfigError(
                f"{path}: has {status.st_size} bytes, a sealing key has {Aead.KEY_SIZE}; put the right file back. "
                "Removing it makes a new key, and every password and key sealed with the old one is then lost"
            )
        return os.read(descriptor, Aead.KEY_SIZE)
    finally:
        os.close(descriptor)


def _create(path: str) -> None:
    """Make `path` with a new key unless it exists. It appears whole, on disk, or not at all. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # the umask may have taken our own bits
            file.write(secrets.token_bytes(Aead.KEY_SIZE))
            file.flush()
            os.fsync(descriptor)
        try:
            # link(2), unlike rename(2), never replaces a key that another process made in the meantime.
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError:
            pass
    finally:
        os.unlink(temporary)
    # A secret sealed with a key that a power cut takes away is lost: the name must be on disk before any is.
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
