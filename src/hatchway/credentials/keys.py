"""Key pairs and public keys in OpenSSH's formats, and the fingerprints people compare."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_core_ed25519_is_valid_point

from hatchway.credentials.secret import Secret
from hatchway.errors import UsageError

LINE_MAX = 8192
"""Longest line with a key, in characters; sshd(8) has the same, "which permits RSA keys up to 16 kilobits"."""

RSA_BITS_MIN = 2048
"""Fewer are refused wherever they come from (NIST SP 800-57 part 1, 5.6.1)."""

RSA_BITS_MAX = 16384
"""OpenSSH (SSHBUF_MAX_BIGNUM) and OpenSSL take no more."""

RSA_BITS_MADE_MAX = 4096
"""The longest that are made here; longer ones take clients seconds at every login, for nothing."""

_EXPONENT_BITS_MAX = 64
"""OpenSSL takes no larger exponent with a modulus above 3072 bits (OPENSSL_RSA_MAX_PUBEXP_BITS)."""

_APPLICATION_MAX = 255

_CERTIFICATE = "-cert-v01@openssh.com"

_ED25519, _RSA = "ssh-ed25519", "ssh-rsa"
_SK_ED25519, _SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"

_CURVES: dict[str, ec.EllipticCurve] = {
    "nistp256": ec.SECP256R1(),
    "nistp384": ec.SECP384R1(),
    "nistp521": ec.SECP521R1(),
}

ALGORITHMS = (_ED25519, *(f"ecdsa-sha2-{curve}" for curve in _CURVES), _RSA, _SK_ED25519, _SK_ECDSA)
"""The types of public keys that are taken."""

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


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key somebody has the private half of.

    `algorithm` is one of ALGORITHMS, `line` "type base64" and nothing else, `comment` printable text of at most
    COMMENT_MAX characters, often none, `fingerprint` "SHA256:…", `bits` the size of an RSA key and None for others,
    whose algorithm says it.
    """

    algorithm: str
    line: str
    comment: str
    fingerprint: str
    bits: int | None

    @property
    def with_comment(self) -> str:
        """`line` with the comment, if there is one."""
        return f"{self.line} {self.comment}".rstrip()

    @property
    def on_security_key(self) -> bool:
        """Whether the private half lies in a FIDO authenticator, which can be asked for a touch or a PIN."""
        return self.algorithm in (_SK_ED25519, _SK_ECDSA)


def generate_ed25519(comment: str) -> KeyPair:
    """A new Ed25519 key pair. Of `comment` what is printable is kept, at most COMMENT_MAX characters.

    The private file has no comment: OpenSSH takes it from the .pub file, and shows "no comment" without one.
    """
    return _pair(Ed25519PrivateKey.generate(), comment)


def generate_rsa(bits: int, comment: str) -> KeyPair:
    """A new RSA key pair of `bits`, 2048 to 4096 and a multiple of 8. Otherwise as `generate_ed25519`.

    Takes some 0.1 s (2048) to several seconds (4096) of one CPU, without the interpreter lock: call it in a worker
    thread. Raises UsageError.
    """
    if not RSA_BITS_MIN <= bits <= RSA_BITS_MADE_MAX or bits % 8:
        raise UsageError(f"an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MADE_MAX} bits, a multiple of 8, not {bits}")
    return _pair(rsa.generate_private_key(public_exponent=65537, key_size=bits), comment)


def _pair(key: Ed25519PrivateKey | rsa.RSAPrivateKey, comment: str) -> KeyPair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    line = f"{public.decode('ascii')} {clean_comment(comment)}".rstrip()
    return KeyPair(line, Secret(private.decode("ascii")), fingerprint(line))


def clean_comment(comment: str) -> str:
    """`comment` with everything that is not printable replaced by a space, at most COMMENT_MAX characters.

    A newline in it would begin a line of its own in authorized_keys: another key, or options.
    """
    marked = "".join(char if char.isprintable() else "\0" for char in comment[:LINE_MAX])
    return re.sub("\0+", " ", marked).strip()[:COMMENT_MAX].rstrip()


def parse_public(text: str) -> PublicKey:
    """The public key in `text`, one line "type base64 [comment]" as in a .pub file.

    Raises UsageError, which never repeats key material, for whatever is no key of ALGORITHMS that OpenSSH takes as
    well: private keys given by mistake, certificates, DSA, RSA below RSA_BITS_MIN or with an exponent that anybody can
    forge signatures for, options in front, several lines, and keys that are damaged or no key at all.
    """
    given = text.strip()
    # Before anything else, since it is many lines: who gives the wrong file must learn that this one stays secret.
    if "PRIVATE KEY" in given or given.startswith(("PuTTY-User-Key-File", "b3BlbnNzaC1rZXktdjE")):
        raise UsageError("this is a private key, which nobody else must have; give its public half, the .pub file")
    if given.startswith("---- BEGIN SSH2"):
        raise UsageError("this is a public key in RFC 4716's format; convert it with: ssh-keygen -i -f FILE")
    if len(given.splitlines()) > 1:
        raise UsageError("more than one line; give one public key at a time")
    if len(given) > LINE_MAX:
        raise UsageError(f"longer than {LINE_MAX} characters, as no public key is")
    fields = given.split(None, 2)
    if fields and not begins_key(fields[0]) and any(begins_key(field) for field in given.split()):
        raise UsageError("there is something in front of the key, options perhaps; give the key alone")
    if len(fields) < 2:
        raise UsageError("not a public key: expected one line such as 'ssh-ed25519 AAAA… comment'")
    return public_key(fields[0], fields[1], fields[2] if len(fields) == 3 else "")


def public_key(algorithm: str, encoded: str, comment: str) -> PublicKey:
    """The public key of type `algorithm` whose wire format (RFC 4253, 6.6) `encoded` is in base64.

    Raises UsageError as `parse_public` does.
    """
    if algorithm.endswith(_CERTIFICATE):
        raise UsageError("certificates are not taken: give the public key, the .pub file, it was made from")
    if algorithm == "ssh-dss":
        raise UsageError("DSA keys are too weak, and sshd takes them no more; make an Ed25519 key")
    if algorithm not in ALGORITHMS:
        raise UsageError(f"not a public key of a type that is taken; those are {', '.join(ALGORITHMS)}")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        blob = b""
    # Two texts for one key would be two keys to whoever compares them.
    if not blob or base64.b64encode(blob).decode("ascii") != encoded:
        raise UsageError("the base64 text of this public key is damaged: cut, or changed on its way here")
    parts = _strings(blob)
    if not parts or parts[0] != algorithm.encode("ascii"):
        raise UsageError("this public key is damaged, or of another type than it says in front")
    bits = _check(algorithm, parts[1:])
    line = f"{algorithm} {encoded}"
    return PublicKey(algorithm, line, clean_comment(comment), _digest(blob), bits)


def begins_key(field: str) -> bool:
    """Whether `field` is the type of a key, be it one that is taken or not."""
    return field in ALGORITHMS or field == "ssh-dss" or field.endswith(_CERTIFICATE)


def _check(algorithm: str, parts: list[bytes]) -> int | None:
    """Check what follows the type in a key's wire format. The size of an RSA key. Raises UsageError."""
    if algorithm == _RSA:
        return _check_rsa(parts)
    if algorithm in (_SK_ED25519, _SK_ECDSA):
        # PROTOCOL.u2f: like the key without "sk-", and then the application, a string without NUL.
        if not parts or b"\0" in parts[-1] or not 0 < len(parts[-1]) <= _APPLICATION_MAX:
            raise UsageError("this security key's public key is damaged: it names no application")
        parts = parts[:-1]
    if algorithm in (_ED25519, _SK_ED25519):
        _check_ed25519(parts)
    else:
        _check_ecdsa(algorithm, parts)
    return None


def _check_ed25519(parts: list[bytes]) -> None:
    # Not only damage: for a point of small order anybody can make signatures.
    if len(parts) != 1 or len(parts[0]) != 32 or not crypto_core_ed25519_is_valid_point(parts[0]):
        raise UsageError("this Ed25519 key is damaged: it is no point that a private key could belong to")


def _check_ecdsa(algorithm: str, parts: list[bytes]) -> None:
    name = algorithm.removeprefix("sk-").removesuffix("@openssh.com").removeprefix("ecdsa-sha2-")
    curve = _CURVES[name]
    # RFC 5656, 3.1. OpenSSH takes no compressed points, which are shorter.
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    if len(parts) != 2 or parts[0] != name.encode("ascii") or len(parts[1]) != size:
        raise UsageError(f"this ECDSA key is damaged, or not of the curve {name}")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(curve, parts[1])
    except ValueError:
        raise UsageError(f"this ECDSA key is damaged: it is no point of the curve {name}") from None


def _check_rsa(parts: list[bytes]) -> int:
    if len(parts) != 2 or not all(_is_positive(part) for part in parts):
        raise UsageError("this RSA key is damaged")
    exponent, modulus = (int.from_bytes(part, "big") for part in parts)
    bits = modulus.bit_length()
    if bits < RSA_BITS_MIN:
        raise UsageError(f"this RSA key has {bits} bits; those with fewer than {RSA_BITS_MIN} are refused")
    if bits > RSA_BITS_MAX:
        raise UsageError(f"this RSA key has {bits} bits; sshd takes {RSA_BITS_MAX} at most")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > _EXPONENT_BITS_MAX or modulus % 2 == 0:
        raise UsageError("this RSA key is damaged or no protection: its exponent or modulus is none that works")
    return bits


def _is_positive(mpint: bytes) -> bool:
    """Whether `mpint` is a positive number without needless zeros in front (RFC 4251, section 5)."""
    return mpint[:1] != b"" and mpint[0] < 0x80 and (mpint[0] != 0 or (len(mpint) > 1 and mpint[1] >= 0x80))


def fingerprint(public_line: str) -> str:
    """The SHA-256 fingerprint of a public key line, "type base64 [comment]", of any key type: "SHA256:…".

    For lines of ours and of sshd, which has checked the key; `parse_public` is for what people give.

    Raises UsageError for anything else: several lines, leading options, a certificate, a private key, base64 that is
    no key of the type named.
    """
    fields = public_line.strip().split(None, 2)
    if len(public_line.strip().splitlines()) != 1 or len(fields) < 2:
        raise UsageError("not a public key: expected one line such as 'ssh-ed25519 AAAA… comment'")
    kind, text = fields[0], fields[1]
    # ssh-keygen prints the fingerprint of the key inside a certificate, which a hash of the whole would contradict.
    if kind.endswith(_CERTIFICATE):
        raise UsageError("a certificate is not a public key: give the .pub file it was made from")
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError:
        blob = b""
    parts = _strings(blob)
    if not parts or len(parts) < 2 or parts[0] != kind.encode("utf-8", "replace"):
        raise UsageError("not a public key: after the type (without options before it) must come its base64 text")
    return _digest(blob)


def _digest(blob: bytes) -> str:
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
