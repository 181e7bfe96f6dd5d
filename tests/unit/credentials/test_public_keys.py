"""Public keys people give: those that ssh-keygen takes too, and none that is weak, damaged or secret."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway.credentials.keys import ALGORITHMS, LINE_MAX, PublicKey, fingerprint, generate_rsa, parse_public
from hatchway.errors import UsageError

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def _wire(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _line(*parts: bytes, name: str | None = None) -> str:
    return f"{name or parts[0].decode()} {base64.b64encode(_wire(*parts)).decode()}"


def _mpint(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _point(curve: ec.EllipticCurve) -> bytes:
    return (
        ec.generate_private_key(curve)
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )


P256 = _point(ec.SECP256R1())
ED25519 = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
# An odd number of its size is a modulus to whoever does not factor it.
MODULUS = (1 << 2047) + 12345

GOOD = {
    "ssh-ed25519": _line(b"ssh-ed25519", ED25519),
    "ecdsa-sha2-nistp256": _line(b"ecdsa-sha2-nistp256", b"nistp256", P256),
    "ecdsa-sha2-nistp384": _line(b"ecdsa-sha2-nistp384", b"nistp384", _point(ec.SECP384R1())),
    "ecdsa-sha2-nistp521": _line(b"ecdsa-sha2-nistp521", b"nistp521", _point(ec.SECP521R1())),
    "ssh-rsa": _line(b"ssh-rsa", _mpint(65537), _mpint(MODULUS)),
    "sk-ssh-ed25519@openssh.com": _line(b"sk-ssh-ed25519@openssh.com", ED25519, b"ssh:"),
    "sk-ecdsa-sha2-nistp256@openssh.com": _line(
        b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", P256, b"ssh:office"
    ),
}


def _listed(line: str, directory: Path) -> str | None:
    """Bits and fingerprint as ssh-keygen prints them, None when it takes no key from `line`."""
    path = directory / "one.pub"
    path.write_text(line + "\n", encoding="utf-8", errors="surrogateescape")
    done = subprocess.run(["ssh-keygen", "-l", "-f", str(path)], capture_output=True, text=True, errors="replace")
    return " ".join(done.stdout.split()[:2]) if done.returncode == 0 else None


def test_all_types_that_are_taken_are_tested() -> None:
    assert set(GOOD) == set(ALGORITHMS)


@needs_ssh_keygen
@pytest.mark.parametrize("algorithm", GOOD)
def test_a_key_of_each_type_is_what_ssh_keygen_says(algorithm: str, tmp_path: Path) -> None:
    key = parse_public(f"\n {GOOD[algorithm]}  a comment of w\u00f6rds \r\n")
    assert key.algorithm == algorithm
    assert key.line == GOOD[algorithm]
    assert key.comment == "a comment of w\u00f6rds"
    assert key.bits == (2048 if algorithm == "ssh-rsa" else None)
    assert key.on_security_key is algorithm.startswith("sk-")
    listed = _listed(key.line, tmp_path)
    assert listed is not None
    assert listed.split()[1] == key.fingerprint == fingerprint(key.line)
    assert parse_public(GOOD[algorithm].replace(" ", "\t")).comment == ""


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("kind", "bits"), [("rsa", 2048), ("rsa", 3072), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("ed25519", 256)]
)
def test_keys_that_ssh_keygen_made(kind: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-C", "me@pc", "-f", path], check=True)
    line = path.with_suffix(".pub").read_text()
    key = parse_public(line)
    assert _listed(line.strip(), tmp_path) == f"{bits} {key.fingerprint}"
    assert key.comment == "me@pc"
    assert key.bits == (bits if kind == "rsa" else None)


@needs_ssh_keygen
@pytest.mark.parametrize("bits", [16384, 4096, 2048, 2049])
@pytest.mark.parametrize("exponent", [3, 35, 65537, 2**64 - 1])
def test_rsa_keys_of_all_sizes(bits: int, exponent: int, tmp_path: Path) -> None:
    line = _line(b"ssh-rsa", _mpint(exponent), _mpint((1 << (bits - 1)) + 1))
    key = parse_public(line)
    assert key.bits == bits
    assert _listed(line, tmp_path) == f"{bits} {key.fingerprint}"


@needs_ssh_keygen
def test_a_certificate_is_refused(tmp_path: Path) -> None:
    authority, path = tmp_path / "authority", tmp_path / "key.pub"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", authority], check=True)
    path.write_text(GOOD["ssh-ed25519"] + "\n")
    subprocess.run(["ssh-keygen", "-q", "-s", authority, "-I", "test", path], check=True)
    with pytest.raises(UsageError, match="certificates are not taken"):
        parse_public((tmp_path / "key-cert.pub").read_text())


@needs_ssh_keygen
@pytest.mark.parametrize("form", [["-m", "PEM"], ["-m", "PKCS8"], []])
def test_a_private_key_given_by_mistake_is_not_repeated(form: list[str], tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", *form, "-f", path], check=True)
    text = path.read_text()
    for pasted in (text, text.replace("\n", " "), "\n\n" + text):
        with pytest.raises(UsageError, match="this is a private key") as caught:
            parse_public(pasted)
        assert not any(line in str(caught.value) for line in text.splitlines() if line)


ED = GOOD["ssh-ed25519"]
TYPE, TEXT = ED.split()
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
]

REFUSED = [
    ("", "expected one line"),
    ("\n", "expected one line"),
    (TYPE, "expected one line"),
    ("AAAA", "expected one line"),
    (f"{ED}\n{ED}", "one public key at a time"),
    (f"{ED}\r{ED}", "one public key at a time"),
    (f"{TYPE}\n{TEXT}", "one public key at a time"),
    (f"{ED} {'x' * LINE_MAX}", "longer than 8192"),
    (f"restrict {ED}", "in front of the key"),
    (f'from="10.0.0.0/8",command="a b" {ED}', "in front of the key"),
    (f"example.com {ED}", "in front of the key"),
    ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none", "private key"),
    ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ==", "private key"),
    ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
    (_line(b"ssh-dss", b"\1", b"\1", b"\1", b"\1"), "DSA"),
    (f"restrict {_line(b'ssh-dss', bytes(1))}", "in front of the key"),
    (_line(b"ssh-ed25519-cert-v01@openssh.com", b"\1"), "certificates"),
    (_line(b"ssh-rsa1", b"\1"), "of a type that is taken"),
    (_line(b"rsa-sha2-512", _mpint(65537), _mpint(MODULUS)), "of a type that is taken"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint(MODULUS), name="rsa-sha2-512"), "of a type that is taken"),
    (f"{TYPE.upper()} {TEXT}", "of a type that is taken"),
    (f"{TYPE}\0 {TEXT}", "of a type that is taken"),
    (f"\udc80 {TEXT}", "of a type that is taken"),
    (f"{TYPE} {TEXT[:-4]}", "damaged"),
    (f"{TYPE} {TEXT[:-1]}", "base64 text"),
    (f"{TYPE} {TEXT}=", "base64 text"),
    (f"{TYPE} {TEXT[:20]}!{TEXT[20:]}", "base64 text"),
    (f"{TYPE} {TEXT[:20]}\u00e9{TEXT[20:]}", "base64 text"),
    (f"{TYPE} ====", "base64 text"),
    (f"{TYPE} \udc80", "base64 text"),
    # Left-over bits: the same key to who decodes it, another text.
    (GOOD["ssh-rsa"][:-3] + "R==", "damaged"),
    (_line(b"ssh-ed25519", ED25519, name="ecdsa-sha2-nistp256"), "another type"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", P256, name="ecdsa-sha2-nistp384"), "another type"),
    (_line(b"ssh-ed25519", ED25519, b""), "damaged"),
    (_line(b"ssh-ed25519", ED25519 + b"\0"), "damaged"),
    (_line(b"ssh-ed25519", ED25519[:-1]), "damaged"),
    (_line(b"ssh-ed25519"), "damaged"),
    (f"{TYPE} {base64.b64encode(_wire(b'ssh-ed25519', ED25519) + bytes(3)).decode()}", "damaged"),
    (f"{TYPE} {base64.b64encode(_wire(b'ssh-ed25519') + b'~~~~').decode()}", "damaged"),
    *((_line(b"ssh-ed25519", point), "no point") for point in SMALL_ORDER),
    (_line(b"ssh-ed25519", b"\xff" * 32), "no point"),
    (_line(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"), "no point"),
    (_line(b"sk-ssh-ed25519@openssh.com", ED25519), "damaged"),
    (_line(b"sk-ssh-ed25519@openssh.com", ED25519, b""), "no application"),
    (_line(b"sk-ssh-ed25519@openssh.com", ED25519, b"ssh:\0x"), "no application"),
    (_line(b"sk-ssh-ed25519@openssh.com", ED25519, b"s" * 256), "no application"),
    (_line(b"sk-ssh-ed25519@openssh.com", ED25519, b"ssh:", b"ssh:"), "damaged"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp384", P256), "not of the curve"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", P256[:-1] + bytes([P256[-1] ^ 1])), "no point of the curve"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + bytes(64)), "no point of the curve"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", b"\0"), "damaged"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", bytes([2 + P256[-1] % 2]) + P256[1:33]), "damaged"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", bytes([6 + P256[-1] % 2]) + P256[1:]), "no point of the curve"),
    (_line(b"ecdsa-sha2-nistp256", b"nistp256", P256, b""), "damaged"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint((1 << 2047) - 1)), "2047 bits"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint((1 << 1023) + 1)), "1024 bits"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint((1 << 16384) + 1)), "16385 bits"),
    (_line(b"ssh-rsa", _mpint(65537), b"\0" + _mpint(MODULUS)), "damaged"),
    (_line(b"ssh-rsa", b"\0" + _mpint(65537), _mpint(MODULUS)), "damaged"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint(MODULUS)[1:]), "damaged"),
    (_line(b"ssh-rsa", _mpint(65537), b""), "damaged"),
    (_line(b"ssh-rsa", b"", _mpint(MODULUS)), "damaged"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint(MODULUS), b"\1"), "damaged"),
    (_line(b"ssh-rsa", _mpint(0), _mpint(MODULUS)), "damaged"),
    (_line(b"ssh-rsa", _mpint(1), _mpint(MODULUS)), "exponent"),
    (_line(b"ssh-rsa", _mpint(2), _mpint(MODULUS)), "exponent"),
    (_line(b"ssh-rsa", _mpint(65536), _mpint(MODULUS)), "exponent"),
    (_line(b"ssh-rsa", _mpint(2**64 + 1), _mpint(MODULUS)), "exponent"),
    (_line(b"ssh-rsa", _mpint(65537), _mpint(MODULUS + 1)), "exponent or modulus"),
]


@pytest.mark.parametrize(("text", "match"), REFUSED)
def test_everything_else_is_refused_and_not_repeated(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        parse_public(text)
    assert len(str(caught.value)) < 300
    for field in text.split():
        assert len(field) < 30 or field in ALGORITHMS or field not in str(caught.value)


def test_the_shortest_rsa_key_that_is_made_is_taken_and_belongs_together(tmp_path: Path) -> None:
    pair = generate_rsa(2048, "shop\nweb")
    key = parse_public(pair.public)
    assert (key.bits, key.comment, key.fingerprint) == (2048, "shop web", pair.fingerprint)
    loaded = serialization.load_ssh_private_key(pair.private.reveal().encode(), password=None)
    public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert public.decode() == key.line
    assert pair.private.reveal().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert generate_rsa(2048, "").fingerprint != pair.fingerprint


@pytest.mark.parametrize("bits", [-2048, 0, 1024, 2047, 2049, 4097, 4104, 16384])
def test_rsa_keys_of_other_sizes_are_not_made(bits: int) -> None:
    with pytest.raises(UsageError, match=f"2048 to 4096 bits.* not {bits}"):
        generate_rsa(bits, "")


@st.composite
def _mangled(draw: st.DrawFn) -> str:
    """A key whose wire format was changed in places, with a type of its own in front or another's."""
    name = draw(st.sampled_from(ALGORITHMS))
    blob = bytearray(base64.b64decode(GOOD[draw(st.sampled_from([name, name, name, *ALGORITHMS]))].split()[1]))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(blob)))
        blob[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    comment = draw(st.text(max_size=5))
    return f"{name} {base64.b64encode(bytes(blob)).decode()} {comment}"


def _parsed(text: str) -> PublicKey | None:
    try:
        return parse_public(text)
    except UsageError:
        return None


@settings(max_examples=1000, deadline=None)
@given(st.one_of(_mangled(), st.text(max_size=300)))
def test_whatever_is_given_it_is_a_key_or_an_error(text: str) -> None:
    key = _parsed(text)
    assert key is None or (key.line.isascii() and (key.line + key.comment).isprintable())


@needs_ssh_keygen
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_mangled())
def test_what_is_taken_ssh_keygen_takes_too(text: str, tmp_path: Path) -> None:
    key = _parsed(text)
    if key is not None:
        listed = _listed(key.line, tmp_path)
        assert listed is not None
        assert listed.split()[1] == key.fingerprint


REPLACEMENTS: list[Callable[[str], str]] = [str.upper, str.swapcase, lambda line: line[::-1]]


@pytest.mark.parametrize("change", REPLACEMENTS)
def test_keys_are_not_taken_in_other_spellings(change: Callable[[str], str]) -> None:
    assert all(_parsed(change(line)) is None for line in GOOD.values())
