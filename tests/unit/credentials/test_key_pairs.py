"""Key pairs as OpenSSH itself sees them."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from hatchway.credentials.keys import COMMENT_MAX, KeyPair, fingerprint, generate_ed25519
from hatchway.errors import UsageError

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return generate_ed25519("shop-web-1")


def _keygen(*arguments: str) -> str:
    done = subprocess.run(["ssh-keygen", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _private_file(pair: KeyPair, directory: Path) -> str:
    path = directory / "id_container"
    path.touch(mode=0o600)
    path.write_text(pair.private.reveal())
    return str(path)


def test_the_pair_belongs_together(pair: KeyPair) -> None:
    kind, text, comment = pair.public.split(" ")
    assert (kind, comment) == ("ssh-ed25519", "shop-web-1")
    key = serialization.load_ssh_private_key(pair.private.reveal().encode(), password=None)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert public.decode() == f"{kind} {text}"
    assert pair.fingerprint == fingerprint(pair.public)
    assert pair.private.reveal().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert pair.private.reveal().endswith("-----END OPENSSH PRIVATE KEY-----\n")


def test_every_pair_is_new(pair: KeyPair) -> None:
    other = generate_ed25519("shop-web-1")
    assert other.fingerprint != pair.fingerprint
    assert other.private != pair.private


@needs_ssh_keygen
def test_openssh_reads_the_private_file(pair: KeyPair, tmp_path: Path) -> None:
    assert _keygen("-y", "-f", _private_file(pair, tmp_path)).split()[:2] == pair.public.split()[:2]


@needs_ssh_keygen
def test_openssh_prints_the_same_fingerprint(pair: KeyPair, tmp_path: Path) -> None:
    path = tmp_path / "id_container.pub"
    path.write_text(pair.public + "\n")
    assert _keygen("-l", "-f", str(path)) == f"256 {pair.fingerprint} shop-web-1 (ED25519)"


@needs_ssh_keygen
@pytest.mark.parametrize("arguments", [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "521"), ("ed25519", "256")])
def test_fingerprints_of_other_keys_too(arguments: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "key"
    kind, bits = arguments
    _keygen("-q", "-t", kind, "-b", bits, "-N", "", "-C", "a comment of words", "-f", str(path))
    line = path.with_suffix(".pub").read_text()
    expected = _keygen("-l", "-f", str(path)).split()[1]
    assert fingerprint(line) == expected
    assert fingerprint("  " + line.replace(" ", "\t", 1)) == expected
    assert fingerprint(" ".join(line.split()[:2])) == expected


@needs_ssh_keygen
def test_a_certificate_is_refused(pair: KeyPair, tmp_path: Path) -> None:
    authority = tmp_path / "authority"
    _keygen("-q", "-t", "ed25519", "-N", "", "-f", str(authority))
    path = tmp_path / "id_container.pub"
    path.write_text(pair.public + "\n")
    _keygen("-q", "-s", str(authority), "-I", "test", str(path))
    with pytest.raises(UsageError, match="certificate"):
        fingerprint((tmp_path / "id_container-cert.pub").read_text())


@pytest.mark.parametrize(
    ("comment", "kept"),
    [
        ("", ""),
        ("  spaces  inside  ", "spaces  inside"),
        ("one\nssh-ed25519 AAAA two", "one ssh-ed25519 AAAA two"),
        ("a\r\n\0\x1b[31mb\x85\u2028c", "a [31mb c"),
        ("Grüße", "Grüße"),
        ("\u202ereversed\u200b", "reversed"),
        ("\n\n", ""),
        ("x" * 5000, "x" * COMMENT_MAX),
    ],
)
def test_a_comment_stays_a_comment(comment: str, kept: str) -> None:
    made = generate_ed25519(comment)
    assert made.public.split(" ", 2)[2:] == ([kept] if kept else [])
    assert len(made.public.splitlines()) == 1


def test_a_line_that_is_no_public_key_is_refused(pair: KeyPair) -> None:
    kind, text, comment = pair.public.split(" ")
    ecdsa = "ecdsa-sha2-nistp256"
    for line in (
        "",
        "\n",
        kind,
        comment,
        f"{ecdsa} {text}",
        f"{text} {kind}",
        f"{kind} {text[:-4]}",
        f"{kind} {text[:8]}",
        f"{kind} {text}AAAA",
        f"{kind} {text[:20]}!{text[20:]}",
        f"{kind} {text[:20]}\u00e9{text[20:]}",
        f"restrict {pair.public}",
        f'from="10.0.0.0/8" {pair.public}',
        f"{pair.public}\n{pair.public}",
        f"{kind}\n{text}",
        f"\udc80 {text}",
        f"{kind} AAAAC3NzaC1lZDI1NTE5",
        pair.private.reveal(),
    ):
        with pytest.raises(UsageError) as caught:
            fingerprint(line)
        assert text not in str(caught.value)


def test_the_private_key_is_not_shown(pair: KeyPair) -> None:
    body = pair.private.reveal().splitlines()[3]
    assert body not in repr(pair) + str(pair) + f"{pair}" + str([pair])
    for taker in (copy.deepcopy, dataclasses.asdict):
        with pytest.raises(TypeError) as caught:
            taker(pair)
        assert body not in repr(caught.value)
