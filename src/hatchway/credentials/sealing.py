"""Sealing: how secrets that must be shown again are kept in the registry.

The key lies in a file of its own, so that neither a copy of the database nor the key alone reveals anything. It is
used as an AEAD (XChaCha20-Poly1305) whose associated data says what the secret is: a sealed value that somebody moved
to another row does not open there. Against whoever can read both files this is no protection.

Another key is taken in these steps, none of which loses anything when the process or the machine dies behind it:

1. `begin_rotation` puts the new key beside the old one, into <path>.new, on disk. From now on that one seals, and both
   unseal.
2. The registry seals everything anew (`reseal`), in one transaction, which must be on disk before the next step.
3. `finish` renames <path>.new to <path>, and the old key is gone.

Whoever loads the key and finds a <path>.new is in the middle of that (`rotating`), and does 2 and 3. It does not matter
whether 2 was done already. There is no way back, since what was sealed meanwhile needs the new key: the way is always
to the end.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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


CREDENTIAL = "hatchway-sealing-key"
"""Name of the systemd credential (systemd.exec(5), CREDENTIALS) that may hold the key instead of a file of ours."""

_NEW = ".new"


@final
class SealingKey:
    """A 32-byte key that seals and unseals secrets. Safe to use from several threads; rotating is for one at a time."""

    __slots__ = ("_aeads", "_credential", "_path")

    def __init__(self, key: bytes) -> None:
        self._aeads: tuple[Aead, ...] = (_aead(key),)
        """What seals, and behind it what unseals as well."""
        self._path: str | None = None
        self._credential = False

    @classmethod
    def load_or_create(cls, path: str, *, needed: bool = False) -> SealingKey:
        """The key in the file `path`, which is made (mode 0600) if there is none. Its directory must exist.

        Any number of processes may do this at once; all get the same key. Raises ConfigError, with what to do, when
        the file is not a regular file of 32 bytes that the running user alone may read, or cannot be made.

        If there is none and it is `needed`, since something was sealed with it, none is made: another one would seal
        what is then in the way of putting it back. The key returned is `lost`.
        """
        # In this order: whoever finishes a rotation in between leaves us with the new key twice, not with the old one.
        new = _loaded(path + _NEW)
        key = _loaded(path)
        if key is None and new is not None:
            raise ConfigError(
                f"{path}: missing, while {path}{_NEW} is there; put the sealing key back. If it is lost for good, move "
                f"{path}{_NEW} to {path}: what was not sealed with that one yet must then be made anew"
            )
        if key is None and needed:
            lost = cls(bytes(Aead.KEY_SIZE))
            lost._aeads, lost._path = (), path
            return lost
        if key is None:
            with _named(path):
                _create(path)
            # Read back and not remembered: another process may have been faster, and its key is the one.
            key = _loaded(path)
        if key is None:
            raise ConfigError(f"{path}: the sealing key was removed as soon as it was made")
        loaded = cls(key)
        loaded._path = path
        if new is not None and new != key:
            loaded._aeads = (_aead(new), *loaded._aeads)
        return loaded

    @classmethod
    def load(cls, path: str, credentials_directory: str | None, *, needed: bool = False) -> SealingKey:
        """The key that systemd gives us in `credentials_directory` ($CREDENTIALS_DIRECTORY), else `load_or_create`.

        A second credential, "hatchway-sealing-key.new", is the operator's way to another key: `rotating` is true then.
        Raises ConfigError when a credential is no 32 bytes, or when there is a key in `path` too, and another one:
        which of them the registry needs can only be the operator's choice.
        """
        given = None if credentials_directory is None else os.path.join(credentials_directory, CREDENTIAL)
        key = None if given is None else _loaded(given, private=False)
        if key is None or given is None:
            return cls.load_or_create(path, needed=needed)
        new = _loaded(given + _NEW, private=False)
        own = [found for name in (path, path + _NEW) if (found := _loaded(name)) is not None]
        if any(found not in (key, new) for found in own):
            raise ConfigError(
                f"there are two sealing keys, the systemd credential {CREDENTIAL} and another in {path}; make the "
                "credential from that file, or remove the file if nothing in the registry was sealed with it"
            )
        loaded = cls(key)
        loaded._credential = True
        if new is not None and new != key:
            loaded._aeads = (_aead(new), *loaded._aeads)
        return loaded

    @property
    def rotating(self) -> bool:
        """Whether there is a new key, and things sealed with the one before may be left: see the module."""
        return len(self._aeads) > 1

    @property
    def lost(self) -> bool:
        """Whether there is none, although secrets were sealed with it: nothing is sealed and nothing opens."""
        return not self._aeads

    def _here(self) -> None:
        if self.lost:
            raise ConfigError(
                f"{self._path}: missing, while the registry beside it has passwords and private keys sealed with it; "
                "put the sealing key back, from where the registry came from, and restart hatchway. If it is lost for "
                "good, put 32 random bytes there (mode 0600, the owner that of the registry), and renew keys and "
                "passwords"
            )

    def begin_rotation(self) -> None:
        """Make a new key, on disk, that seals from now on. Does nothing while `rotating`.

        Raises ConfigError when it cannot be made, or when the key is not ours to change but systemd's credential.
        """
        if self.rotating:
            return
        self._here()
        if self._credential:
            raise ConfigError(
                f"the sealing key is the systemd credential {CREDENTIAL}, which only you can change: give the new key, "
                f"32 random bytes, as a second credential {CREDENTIAL}{_NEW}, restart hatchway, and when it has "
                f"started make that one {CREDENTIAL} and take the second away"
            )
        if self._path is None:
            raise ValueError("a key that is in no file cannot be rotated")
        with _named(self._path + _NEW):
            _create(self._path + _NEW)
        new = _loaded(self._path + _NEW)
        if new is None:
            raise ConfigError(f"{self._path}{_NEW}: the sealing key was removed as soon as it was made")
        self._aeads = (_aead(new), *self._aeads)

    def reseal(self, sealed: bytes, context: str) -> bytes:
        """What is in `sealed`, sealed for the same `context` with the key that seals now. Raises DamagedSecretError."""
        return self.seal(self.unseal(sealed, context), context)

    def finish(self) -> None:
        """Let the key before go, for good: everything has been sealed anew, and that is on disk. Does nothing when not
        `rotating`.

        Raises ConfigError when the file cannot be renamed, or is not the one `begin_rotation` made; then both keys
        remain, and it can be called again. With a systemd credential it is the operator who takes the old one away.
        """
        if not self.rotating:
            return
        if self._path is not None:
            new = _loaded(self._path + _NEW)
            if new is None or bytes(self._aeads[0]) != new:
                raise ConfigError(f"{self._path}{_NEW}: not the key that everything was sealed with; put it back")
            with _named(self._path):
                os.rename(self._path + _NEW, self._path)
                _sync_directory(os.path.dirname(os.path.abspath(self._path)))
        self._aeads = self._aeads[:1]

    def seal(self, secret: Secret, context: str) -> bytes:
        """`secret` sealed for `context`, such as "password:shop-web-1". The same secret never seals to the same.

        Raises ConfigError, with what to do, when the key is `lost`.
        """
        self._here()
        return _FORMAT + bytes(self._aeads[0].encrypt(secret.reveal().encode(), _associated(context)))

    def unseal(self, sealed: bytes, context: str) -> Secret:
        """The secret in `sealed`, if this key sealed it for `context`. Raises DamagedSecretError otherwise."""
        text: str | None = None
        if sealed[:1] == _FORMAT and len(sealed) >= _OVERHEAD:
            for aead in self._aeads:
                try:
                    text = aead.decrypt(sealed[1:], _associated(context)).decode()
                    break
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


def _aead(key: bytes) -> Aead:
    if len(key) != Aead.KEY_SIZE:
        raise ValueError(f"a sealing key has {Aead.KEY_SIZE} bytes, not {len(key)}")
    return Aead(key)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn OSError into ConfigError that names `path`."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise ConfigError(f"{path}: a symbolic link; put the sealing key itself there") from exc
        raise ConfigError(f"{path}: the sealing key cannot be read or made: {exc.strerror}") from exc


def _loaded(path: str, *, private: bool = True) -> bytes | None:
    """The key in `path`, None when there is no such file. Raises ConfigError.

    Who may read what systemd hands over, with modes and access lists of its own, is systemd's business: `private`.
    """
    with _named(path):
        return _read(path, private=private)


def _associated(context: str) -> bytes:
    return _FORMAT + context.encode()


def _read(path: str, *, private: bool) -> bytes | None:
    """The key in `path`, None when there is no such file. Raises OSError and ConfigError."""
    try:
        # O_NONBLOCK: a FIFO in its place would otherwise hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if private:
            require_private(path, status)
        elif not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file")
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
    _sync_directory(directory)


def _sync_directory(path: str) -> None:
    parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
