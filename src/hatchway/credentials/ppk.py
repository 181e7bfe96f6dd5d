"""Private keys in PuTTY's format, PPK version 3, which WinSCP, PuTTY's tools and FileZilla read.

The format is described in PuTTY's manual, appendix C. A file with a passphrase is encrypted with AES-256-CBC; key,
initialisation vector and the key of the checksum come from the passphrase by Argon2id (RFC 9106).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl.pwhash import argon2id

from hatchway.credentials.keys import clean_comment
from hatchway.credentials.secret import Secret
from hatchway.errors import UsageError

PASSPHRASE_MIN = 8
PASSPHRASE_MAX = 255
"""Characters of a passphrase."""

PASSES = 3
MEMORY_BYTES = 64 << 20
"""Argon2id's, in the one lane that libsodium has. PuTTY's own files have 8 MiB, and as many passes as take 0.1 s."""

_BLOCK = 16
_LINE = 64
_KEY_SIZE, _IV_SIZE, _MAC_KEY_SIZE = 32, _BLOCK, 32


def check_passphrase(passphrase: Secret) -> None:
    """Raises UsageError, which does not repeat it, unless PuTTY takes `passphrase` on every system.

    It takes bytes: of anything but ASCII those differ with the code page of whoever types it.
    """
    text = passphrase.reveal()
    if not PASSPHRASE_MIN <= len(text) <= PASSPHRASE_MAX:
        raise UsageError(f"a passphrase has {PASSPHRASE_MIN} to {PASSPHRASE_MAX} characters")
    if not text.isascii() or not text.isprintable():
        raise UsageError(
            "a passphrase for PuTTY's format has letters without accents, digits, signs and blanks only (ASCII): "
            "others are not the same bytes on every computer"
        )


def encode(private: Secret, comment: str, passphrase: Secret | None = None) -> Secret:
    """The .ppk file for `private`, an unencrypted OpenSSH private key file (Ed25519 or RSA).

    `comment` is what programs call the key; only what is printable is kept. With `passphrase` it takes some 0.2 s and
    64 MiB: call it in a worker thread then. Raises UsageError for a passphrase as `check_passphrase` does.
    """
    key = serialization.load_ssh_private_key(private.reveal().encode("ascii"), None)
    if isinstance(key, Ed25519PrivateKey):
        algorithm = "ssh-ed25519"
        secret = _string(key.private_bytes_raw())
    elif isinstance(key, RSAPrivateKey):
        algorithm = "ssh-rsa"
        numbers = key.private_numbers()
        secret = b"".join(map(_mpint, (numbers.d, numbers.p, numbers.q, pow(numbers.q, -1, numbers.p))))
    else:
        raise TypeError(f"a key of another type than are made here: {type(key).__name__}")
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public = base64.b64decode(line.split()[1])
    # ASCII: PuTTY shows a comment in the code page of its system.
    comment = clean_comment(comment).encode("ascii", "replace").decode("ascii")

    derivation: list[str] = []
    encryption, stored, mac_key = "none", secret, b""
    if passphrase is not None:
        check_passphrase(passphrase)
        encryption = "aes256-cbc"
        salt = os.urandom(argon2id.SALTBYTES)
        derivation = [
            "Key-Derivation: Argon2id",
            f"Argon2-Memory: {MEMORY_BYTES // 1024}",
            f"Argon2-Passes: {PASSES}",
            "Argon2-Parallelism: 1",
            f"Argon2-Salt: {salt.hex()}",
        ]
        derived = argon2id.kdf(
            _KEY_SIZE + _IV_SIZE + _MAC_KEY_SIZE, passphrase.reveal().encode("ascii"), salt, PASSES, MEMORY_BYTES
        )
        cipher_key, rest = derived[:_KEY_SIZE], derived[_KEY_SIZE:]
        iv, mac_key = rest[:_IV_SIZE], rest[_IV_SIZE:]
        secret += os.urandom(-len(secret) % _BLOCK)
        encryptor = Cipher(algorithms.AES256(cipher_key), modes.CBC(iv)).encryptor()
        stored = encryptor.update(secret) + encryptor.finalize()
    covered = b"".join(
        map(_string, (algorithm.encode("ascii"), encryption.encode("ascii"), comment.encode("ascii"), public, secret))
    )
    mac = hmac.new(mac_key, covered, hashlib.sha256).hexdigest()
    lines = [
        f"PuTTY-User-Key-File-3: {algorithm}",
        f"Encryption: {encryption}",
        f"Comment: {comment}",
        *_blob("Public", public),
        *derivation,
        *_blob("Private", stored),
        f"Private-MAC: {mac}",
    ]
    return Secret("\n".join(lines) + "\n")


def _blob(name: str, content: bytes) -> list[str]:
    text = base64.b64encode(content).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return [f"{name}-Lines: {len(lines)}", *lines]


def _string(content: bytes) -> bytes:
    """RFC 4251, 5."""
    return struct.pack(">I", len(content)) + content


def _mpint(number: int) -> bytes:
    """RFC 4251, 5, of a positive number: a zero in front of it where its first bit is set."""
    return _string(number.to_bytes(number.bit_length() // 8 + 1, "big"))
