"""Hashes from elsewhere: right for their password only, and none that is weak, damaged or too dear gets in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import crypt_r
import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.credentials import crypt_process, crypts, passwords
from hatchway.credentials.imported import import_hash, is_hash
from hatchway.credentials.secret import DamagedSecretError
from hatchway.errors import HatchwayError, HostError, UsageError

PASSWORD = "correct horse Gr\u00fc\u00dfe"

SETTINGS = {
    "sha512-crypt": "$6$abcdefgh./012345$",
    "sha256-crypt": "$5$abcdefgh$",
    "yescrypt": "$y$j75$cVfAuBzWLk5OREDYbVPFi0$",
    "bcrypt": "$2b$04$abcdefghijklmnopqrstuu",
}
HASHES = {name: crypt_r.crypt(PASSWORD, setting) for name, setting in SETTINGS.items()}
DIGEST = hashlib.sha512(PASSWORD.encode()).hexdigest()

# From elsewhere, so that it is not only this host's libcrypt that agrees with itself.
KNOWN = [
    # Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512", test vectors; `openssl passwd` agrees.
    (
        "Hello world!",
        (
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
        ),
    ),
    ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    (
        "Hello world!",
        (
            "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/"
            "YTBmSK6H9qs/y3RnOaw5v."
        ),
    ),
    # OpenBSD's bcrypt, as in crypt_blowfish's wrapper.c.
    ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    ("U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
]  # fmt: skip


def _argon2id(password: bytes, *, memory_kib: int, passes: int, lanes: int, salt: int = 16, length: int = 32) -> str:
    made = Argon2id(salt=os.urandom(salt), length=length, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return str(made.derive_phc_encoded(password))


def _complete(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_what_is_a_hash() -> None:
    for text in (*HASHES.values(), *(text for _, text in KNOWN), "ab" * 64):
        assert is_hash(text)
    for text in ("", "correct horse battery", "$6$", "$6$is a good password", "$1$abcdefgh$" + "a" * 22, "a" * 127):
        assert not is_hash(text)


@pytest.mark.parametrize("name", HASHES)
def test_a_hash_is_right_for_its_password_only(name: str) -> None:
    stored = import_hash(f"  {HASHES[name]}\n")
    assert stored == HASHES[name]
    assert passwords.kind(stored) == name
    assert passwords.needs_rehash(stored)
    right = PASSWORD.encode()
    assert passwords.verify(stored, right)
    for wrong in (
        right[:-1],
        right + b"x",
        right + b"\0",
        right + b"\0x",
        b"",
        b"x" * 512,
        b"x" * 5000,
        b"\xff\xfe",
        b"*0",
    ):
        assert passwords.verify(stored, wrong) is False, wrong


@pytest.mark.parametrize("name", HASHES)
def test_what_stands_behind_a_nul_is_part_of_the_attempt(name: str) -> None:
    assert crypts.check(HASHES[name], PASSWORD.encode())
    assert not crypts.check(HASHES[name], PASSWORD.encode() + b"\0anything")


@pytest.mark.parametrize(("password", "encoded"), KNOWN)
def test_hashes_that_others_published_are_checked(password: str, encoded: str) -> None:
    stored = import_hash(encoded)
    assert passwords.verify(stored, password.encode())
    assert not passwords.verify(stored, password.encode() + b"!")


@pytest.mark.parametrize("version", ["a", "b", "y"])
def test_versions_of_bcrypt(version: str) -> None:
    stored = import_hash(crypt_r.crypt("x" * 72, f"$2{version}$04$abcdefghijklmnopqrstuu"))
    assert passwords.kind(stored) == "bcrypt"
    assert passwords.verify(stored, b"x" * 72)
    assert not passwords.verify(stored, b"x" * 71)


def test_bcrypt_does_not_take_what_follows_72_bytes_for_part_of_the_password() -> None:
    stored = import_hash(crypt_r.crypt("x" * 80, "$2b$04$abcdefghijklmnopqrstuu"))
    assert crypt_r.crypt("x" * 72 + "anything", stored) == stored
    assert not passwords.verify(stored, b"x" * 72 + b"anything")


def test_the_longest_password_crypt_takes_is_checked_whole() -> None:
    stored = import_hash(crypt_r.crypt("x" * 511, "$6$rounds=1000$ab$"))
    assert passwords.verify(stored, b"x" * 511)
    assert not passwords.verify(stored, b"x" * 510)
    assert not passwords.verify(stored, b"x" * 512)


def test_an_attempt_longer_than_crypt_takes_is_not_the_failure_token() -> None:
    # libcrypt answers "*0" to it, which is no hash that could be stored.
    assert not passwords.verify(HASHES["sha512-crypt"], b"x" * 512)
    with pytest.raises(DamagedSecretError):
        passwords.verify("*0", b"x" * 512)


@pytest.mark.parametrize("digest", [DIGEST, DIGEST.upper()])
def test_an_unsalted_digest_is_not_stored_as_it_is(digest: str) -> None:
    stored = import_hash(digest)
    assert stored.startswith("sha512+$argon2id$v=19$m=65536,t=2,p=1$")
    assert DIGEST not in stored.lower()
    assert import_hash(digest) != stored
    assert passwords.kind(stored) == "sha512"
    assert passwords.needs_rehash(stored)
    assert passwords.verify(stored, PASSWORD.encode())
    for wrong in (DIGEST, DIGEST.upper(), PASSWORD + "x", "", "\0"):
        assert not passwords.verify(stored, wrong.encode())
    assert not passwords.verify(stored.removeprefix("sha512+"), PASSWORD.encode())


@pytest.mark.parametrize(
    ("memory_kib", "passes", "lanes", "salt", "length"),
    [(65536, 3, 4, 16, 32), (19456, 2, 1, 16, 32), (1024, 1, 16, 8, 16), (8, 1, 1, 24, 48), (47104, 1, 1, 32, 32)],
)
def test_argon2id_from_elsewhere(memory_kib: int, passes: int, lanes: int, salt: int, length: int) -> None:
    encoded = _argon2id(b"pw", memory_kib=memory_kib, passes=passes, lanes=lanes, salt=salt, length=length)
    stored = import_hash(encoded)
    assert stored == encoded
    assert passwords.kind(stored) == "argon2id"
    assert passwords.needs_rehash(stored)
    assert passwords.verify(stored, b"pw")
    assert not passwords.verify(stored, b"pv")


def test_argon2id_of_our_parameters_needs_no_rehash() -> None:
    assert not passwords.needs_rehash(import_hash(_argon2id(b"pw", memory_kib=65536, passes=2, lanes=1)))
    for odd in ({"salt": 17}, {"length": 48}):
        assert passwords.needs_rehash(import_hash(_argon2id(b"pw", memory_kib=65536, passes=2, lanes=1, **odd)))


MD5_HEX = "5f4dcc3b5aa765d61d8327deb882cf99"
SHA1_HEX = "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8"

REFUSED = [
    ("$1$salt$qJH7.N4xYta3aEG/dfqo/0", "md5 is refused"),
    ("$apr1$salt$xxxxxxxxxxxxxxxxxxxxx.", "md5 is refused"),
    ("$md5,rounds=904$salt$hash", "md5 is refused"),
    ("$md5$salt$hash", "md5 is refused"),
    ("{MD5}X03MO1qnZdYdgyfeuILPmQ==", "md5 is refused"),
    ("{smd5}X03MO1qnZdYdgyfeuILPmQ==", "md5 is refused"),
    (MD5_HEX, "md5 is refused"),
    (MD5_HEX.upper(), "md5 is refused"),
    ("md5" + MD5_HEX, "md5 is refused"),
    ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "sha1 is refused"),
    ("{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "sha1 is refused"),
    ("$sha1$40000$jtNX3nZ2$hBNaIXkt4wBI2o5rsi8KejSjNqIq", "sha1 is refused"),
    (SHA1_HEX, "sha1 is refused"),
    ("*" + SHA1_HEX.upper(), "sha1 is refused"),
    ("ab" * 32, "unsalted SHA-2"),
    ("ab" * 48, "unsalted SHA-2"),
    ("rl.3StKT.4T8M", "DES crypt is refused"),
    ("_J9..rasmBYk8r9AiWNc", "DES crypt is refused"),
    ("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$aaaa", "only argon2id"),
    ("$argon2d$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$aaaa", "only argon2id"),
    ("$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "2x"),
    ("$2$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "2x"),
    ("!", "without a password, or a locked one"),
    ("*", "without a password, or a locked one"),
    ("!!", "without a password, or a locked one"),
    ("x", "without a password, or a locked one"),
    ("!" + HASHES["sha512-crypt"], "without a password, or a locked one"),
    ("{CRYPT}" + HASHES["sha512-crypt"], "what follows the word in braces"),
    (f"web:{HASHES['sha512-crypt']}:19000:0:99999:7:::", "second field only"),
    (f"web:{HASHES['bcrypt']}", "second field only"),
    ("$7$CU..../....aaaa$bbbb", "no kind of password hash"),
    ("$gy$j9T$aaaa$bbbb", "no kind of password hash"),
    ("pbkdf2_sha256$260000$aaaa$bbbb", "no kind of password hash"),
    ("$pbkdf2-sha512$25000$aaaa$bbbb", "no kind of password hash"),
    ("correct-horse-battery-staple", "no kind of password hash"),
    ("", "no hash was given"),
    ("correct horse", "with spaces"),
    ("$6$s\u00e4lt$" + "a" * 86, "other characters"),
    ("$6$salt$\0" + "a" * 86, "other characters"),
    ("a" * 100_000, "too long"),
    ("$6$" + "a" * 100_000, "too long"),
    (DIGEST[:-1], "no kind of password hash"),
    (DIGEST + "0", "no kind of password hash"),
    # Damaged.
    (HASHES["sha512-crypt"][:-1], "damaged"),
    (HASHES["sha512-crypt"] + ".", "damaged"),
    (HASHES["sha512-crypt"][:-1] + "z", "damaged"),
    ("$6$$" + "a" * 85 + ".", "damaged"),
    ("$6$rounds=05000$salt$" + "a" * 85 + ".", "damaged"),
    ("$6$rounds=$salt$" + "a" * 85 + ".", "damaged"),
    ("$6$rounds=-5000$salt$" + "a" * 85 + ".", "damaged"),
    ("$6$rounds=99999999999999999999$salt$" + "a" * 85 + ".", "damaged"),
    ("$6$saltsaltsaltsalts$" + "a" * 85 + ".", "damaged"),
    (HASHES["bcrypt"][:-1], "damaged"),
    (HASHES["bcrypt"][:28] + "v" + HASHES["bcrypt"][29:], "damaged"),
    (HASHES["yescrypt"].replace("$j75$", "$j75$$"), "damaged"),
    ("$y$j75$z$" + "a" * 42 + ".", "damaged, or crypt"),
    (passwords.DUMMY[:-1], "damaged"),
    (passwords.DUMMY + "A", "damaged"),
    (passwords.DUMMY.replace("v=19", "v=16"), "damaged"),
    (passwords.DUMMY.replace("$v=19", ""), "damaged"),
    (passwords.DUMMY.replace("t=2", "t=02"), "damaged"),
    (passwords.DUMMY.replace("p=1", "p=1,keyid=AAAA"), "damaged"),
    ("sha512+" + passwords.DUMMY, "no kind of password hash"),
    # Too dear, or too cheap to be what it says.
    ("$6$rounds=999$salt$" + "a" * 85 + ".", "999 rounds; 1000 to 700000"),
    ("$6$rounds=700001$salt$" + "a" * 85 + ".", "700001 rounds"),
    ("$6$rounds=999999999$salt$" + "a" * 85 + ".", "999999999 rounds"),
    ("$5$rounds=550001$salt$" + "a" * 42 + ".", "550001 rounds; 1000 to 550000"),
    (HASHES["bcrypt"].replace("$04$", "$15$"), "cost 15; 4 to 14"),
    (HASHES["bcrypt"].replace("$04$", "$31$"), "cost 31"),
    (HASHES["bcrypt"].replace("$04$", "$03$"), "cost 03"),
    (HASHES["yescrypt"].replace("$j75$", "$jET$"), "more than 256 MiB"),
    (HASHES["yescrypt"].replace("$j75$", "$jzT$"), "more than 256 MiB"),
    (HASHES["yescrypt"].replace("$j75$", "$j9T0$"), "other than crypt_gensalt"),
    (passwords.DUMMY.replace("m=65536", "m=262145"), "262145 KiB of memory"),
    (passwords.DUMMY.replace("m=65536", "m=4194304"), "4194304 KiB of memory"),
    (passwords.DUMMY.replace("t=2", "t=33"), "33 passes"),
    (passwords.DUMMY.replace("t=2", "t=999999"), "999999 passes"),
    (passwords.DUMMY.replace("p=1", "p=17"), "17 lanes"),
    (passwords.DUMMY.replace("m=65536,t=2,p=1", "m=64,t=2,p=9"), "9 lanes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "match"), REFUSED)
def test_everything_else_is_refused_by_name_and_not_repeated(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        import_hash(text)
    shown = _complete(caught.value)
    assert len(text) < 5 or text not in shown
    for part in text.split("$")[3:]:
        assert len(part) < 8 or part not in shown
    if text.startswith(passwords.SHA512_PREFIX) or "damaged, or crypt" in match:
        return
    # Nor could a damaged registry make us check it.
    with pytest.raises(DamagedSecretError):
        passwords.verify(text, b"attempt")


@pytest.mark.parametrize(
    "encoded",
    [
        "$6$rounds=700000$ab$" + "a" * 85 + ".",
        "$5$rounds=550000$ab$" + "a" * 42 + ".",
        "$2b$14$abcdefghijklmnopqrstuu" + "a" * 30 + ".",
        "$y$jDT$cVfAuBzWLk5OREDYbVPFi0$" + "a" * 42 + ".",
        passwords.DUMMY.replace("m=65536,t=2", "m=262144,t=8"),
        passwords.DUMMY.replace("m=65536,t=2,p=1", "m=8,t=262144,p=1"),
    ],
)
def test_the_dearest_of_each_kind_can_be_checked_and_takes_about_a_second(encoded: str) -> None:
    # A bound that a loaded machine keeps; crypts.py has what was measured on one that is not.
    stored = import_hash(encoded)
    began = time.monotonic()
    assert passwords.verify(stored, b"x" * 72) is False
    assert time.monotonic() - began < crypts.TIMEOUT_S / 2


def test_a_check_leaves_the_interpreter_to_others() -> None:
    # The claim crypts.py is built on: crypt-r itself would stop every thread of the daemon.
    dear = "$2b$11$abcdefghijklmnopqrstuu" + "a" * 30 + "."
    checking = threading.Thread(target=passwords.verify, args=(dear, b"x" * 24))
    checking.start()
    turns = 0
    while checking.is_alive():
        time.sleep(0.001)
        turns += 1
    checking.join()
    assert turns > 10


def test_the_process_of_a_check_gets_nothing_of_ours_and_leaves_no_core(tmp_path: Path) -> None:
    code = (
        "import runpy, sys, io, os, resource\n"
        f"module = runpy.run_path({crypt_process.__file__!r})\n"
        "module['main']()\n"
        "sys.stderr.write(f'{resource.getrlimit(resource.RLIMIT_CORE)} {resource.getrlimit(resource.RLIMIT_CPU)}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=SETTINGS["sha512-crypt"].encode() + b"\0" + PASSWORD.encode(),
        capture_output=True,
        env={},
    )
    assert done.stdout.decode() == HASHES["sha512-crypt"]
    core, cpu = done.stderr.decode().split(") (")
    assert core in ("(1, 1", "(0, 0")
    assert cpu == f"{crypt_process.CPU_MAX_S}, {crypt_process.CPU_MAX_S})"


def test_a_check_that_cannot_be_made_is_no_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = HASHES["sha512-crypt"]
    for change in (("executable", "/nonexistent"), ("executable", "/bin/false")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, *change)
            with pytest.raises(HostError, match="could not be checked") as caught:
                passwords.verify(stored, PASSWORD.encode())
            assert PASSWORD not in _complete(caught.value)
    monkeypatch.setattr(crypts, "TIMEOUT_S", 0.001)
    with pytest.raises(HostError, match="within") as caught:
        passwords.verify(stored, PASSWORD.encode())
    assert PASSWORD not in _complete(caught.value)
    assert stored not in _complete(caught.value)


ALPHABET = st.sampled_from("$./0aAzZ9=,+{}:!*_xyj\u00e4\0\n ")


@st.composite
def _mangled(draw: st.DrawFn) -> str:
    text: str = draw(st.sampled_from([*HASHES.values(), passwords.DUMMY, "sha512+" + passwords.DUMMY, DIGEST]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(ALPHABET, max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return text


@settings(max_examples=150, deadline=None)
@given(st.one_of(_mangled(), st.text(max_size=200), st.text(ALPHABET, max_size=200)), st.binary(max_size=600))
def test_no_text_gets_anybody_in_or_breaks_anything(text: str, attempt: bytes) -> None:
    before = time.monotonic()
    try:
        stored = import_hash(text)
    except UsageError:
        stored = text
    try:
        assert passwords.verify(stored, attempt) is False
    except DamagedSecretError:
        pass
    except HatchwayError as exc:
        raise AssertionError(f"{text!r}: {exc}") from exc
    assert time.monotonic() - before < 10
