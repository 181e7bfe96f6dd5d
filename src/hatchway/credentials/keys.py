"""Key pairs in OpenSSH's formats, and the fingerprints people compare."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hatchway.credentials.secret import Secret
from hatchway.errors import UsageError

COMMENT_MAX = 100
"""Longest comment in characters; it is for people, and lines of authorized_keys are read by them too."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair.

    `public` is a line of authorized_keys(5) without options and without newline, `private` the OpenSSH private key
    file, unencrypted, `fingerprint` "SHA256:…" as `ssh-keygen -l` prints it.
    """

    public: str
    private: Secret
    fingerprint: str


def generate_ed25519(comment: str) -> KeyPair:
    """A new Ed25519 key pair. Of `comment` only printable ASCII is kept, at most COMMENT_MAX characters.

    The private file has no comment: OpenSSH takes it from the .pub file, and shows "no comment" without one.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    # A newline in a comment would begin a line of its own in authorized_keys: another key, or options.
    clean = re.sub(r"[^\x20-\x7e]+", " ", comment).strip()[:COMMENT_MAX].rstrip()
    line = f"{public.decode('ascii')} {clean}".rstrip()
    return KeyPair(line, Secret(private.decode("ascii")), fingerprint(line))


def fingerprint(public_line: str) -> str:
    """The SHA-256 fingerprint of a public key line, "type base64 [comment]", of any key type: "SHA256:…".

    Raises UsageError for anything else: several lines, leading options, a certificate, a private key, base64 that is
    no key of the type named.
    """
    fields = public_line.strip().split(None, 2)
    if len(public_line.strip().splitlines()) != 1 or len(fields) < 2:
        raise UsageError("not a public key: expected one line such as 'ssh-ed25519 AAAA… comment'")
    kind, text = fields[0], fields[1]
    # ssh-keygen prints the fingerprint of the key inside a certificate, which a hash of the whole would contradict.
    if kind.endswith("-cert-v01@openssh.com"):
        raise UsageError("a certificate is not a public key: give the .pub file it was made from")
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError:
        blob = b""
    parts = _strings(blob)
    if not parts or len(parts) < 2 or parts[0] != kind.encode("utf-8", "replace"):
        raise UsageError("not a public key: after the type (without options before it) must come its base64 text")
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def _strings(blob: bytes) -> list[bytes] | None:
    """The strings (RFC 4251, section 5) that `blob` is made of, as every key's is; None when it is cut or longer."""
    parts: list[bytes] = []
    at = 0
    while at < len(blob):
        if len(blob) - at < 4:
            return None
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4
        if length > len(blob) - at:
            return None
        parts.append(blob[at : at + length])
        at += length
    return parts
