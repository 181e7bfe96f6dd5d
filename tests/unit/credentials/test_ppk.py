"""PuTTY's format, read by puttygen."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hatchway.credentials import keys, ppk
from hatchway.credentials.keys import KeyPair
from hatchway.credentials.secret import Secret
from hatchway.errors import UsageError

PASSPHRASE = Secret("correct horse 'battery\" \\staple")


@pytest.fixture(scope="module", params=["ed25519", "rsa2048", "rsa3072", "rsa4096"])
def pair(request: pytest.FixtureRequest) -> KeyPair:
    if request.param == "ed25519":
        return keys.generate_ed25519("shop-web-1")
    return keys.generate_rsa(int(request.param.removeprefix("rsa")), "shop-web-1")


def puttygen(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it; it asks for nothing."""
    return subprocess.run(
        ["puttygen", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def back(path: Path, passphrase: Secret | None) -> str:
    """The public key that ssh-keygen finds in what puttygen makes of the .ppk at `path`."""
    old, new = path.with_name("old"), path.with_name("openssh")
    old.write_text(f"{passphrase.reveal() if passphrase else ''}\n")
    done = puttygen(
        path, "-O", "private-openssh-new", "-o", new, "--old-passphrase", old, "--new-passphrase", "/dev/null"
    )
    assert done.returncode == 0, done.stderr
    read = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", new], check=True, capture_output=True, text=True)
    return " ".join(read.stdout.split()[:2])


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "passphrase"])
def test_puttygen_reads_it(tmp_path: Path, pair: KeyPair, passphrase: Secret | None) -> None:
    path = tmp_path / "key.ppk"
    made = ppk.encode(pair.private, "shop-web-1", passphrase).reveal()
    path.write_text(made)
    assert made.startswith("PuTTY-User-Key-File-3: ssh-")
    assert puttygen(path, "-O", "fingerprint").stdout.split()[2] == pair.fingerprint
    assert puttygen(path, "-L").stdout.split() == [*pair.public.split()[:2], "shop-web-1"]
    assert back(path, passphrase) == " ".join(pair.public.split()[:2])
    # In the form that puttygen itself writes: the same fields in the same order.
    again = tmp_path / "again.ppk"
    old = tmp_path / "old"
    options = ("--old-passphrase", old) if passphrase else ()
    assert puttygen(path, "-C", "shop-web-1", "-o", again, *options).returncode == 0
    assert re.findall("^[A-Za-z0-9-]+:", again.read_text(), re.MULTILINE) == re.findall(
        "^[A-Za-z0-9-]+:", made, re.MULTILINE
    )
    if passphrase is None:
        assert again.read_text() == made


def test_the_passphrase_is_needed(tmp_path: Path) -> None:
    pair = keys.generate_ed25519("x")
    path, wrong = tmp_path / "key.ppk", tmp_path / "wrong"
    path.write_text(ppk.encode(pair.private, "x", PASSPHRASE).reveal())
    wrong.write_text("wrong horse\n")
    done = puttygen(path, "-O", "private-openssh", "-o", tmp_path / "out", "--old-passphrase", wrong)
    assert done.returncode != 0
    assert "wrong passphrase" in done.stderr


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    other = keys.generate_ed25519("x").public.split()[1]
    pair = keys.generate_ed25519("x")
    text = ppk.encode(pair.private, "x").reveal().splitlines()
    at = text.index("Public-Lines: 2") + 1
    text[at : at + 2] = [other[:64], other[64:]]
    (tmp_path / "key.ppk").write_text("\n".join(text) + "\n")
    done = puttygen(tmp_path / "key.ppk", "-O", "private-openssh", "-o", tmp_path / "out")
    assert "MAC failed" in done.stderr


def test_argon2id_is_not_weak() -> None:
    made = ppk.encode(keys.generate_ed25519("x").private, "x", PASSPHRASE).reveal()
    fields = dict(line.split(": ", 1) for line in made.splitlines() if ": " in line)
    assert (fields["Encryption"], fields["Key-Derivation"]) == ("aes256-cbc", "Argon2id")
    assert (int(fields["Argon2-Memory"]), int(fields["Argon2-Passes"])) >= (65536, 3)
    again = ppk.encode(keys.generate_ed25519("x").private, "x", PASSPHRASE).reveal()
    assert fields["Argon2-Salt"] not in again
    assert len(fields["Argon2-Salt"]) == 32


@pytest.mark.parametrize("comment", ["a\nEncryption: none", "\x1b[2J", "ü", "x" * 500, ""])
def test_a_comment_is_one_line(tmp_path: Path, comment: str) -> None:
    made = ppk.encode(keys.generate_ed25519("x").private, comment).reveal()
    assert made.isascii()
    assert made.count("Encryption: ") == (2 if "Encryption" in comment else 1)
    assert made.splitlines()[1] == "Encryption: none"
    (tmp_path / "key.ppk").write_text(made)
    assert puttygen(tmp_path / "key.ppk", "-O", "fingerprint").returncode == 0


@pytest.mark.parametrize("text", ["short", "x" * 256, "pässword", "tab\ttab1", "line\nline", ""])
def test_passphrases_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ppk.encode(keys.generate_ed25519("x").private, "x", Secret(text))
    assert text == "" or text not in str(caught.value)
