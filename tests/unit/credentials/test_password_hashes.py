"""Passwords: what is generated, and what a hash accepts."""

from __future__ import annotations

import math
import traceback
import urllib.parse
from shlex import quote

import pytest
from nacl.pwhash import argon2id

from hatchway.credentials import passwords
from hatchway.credentials.secret import DamagedSecretError, Secret
from hatchway.errors import UsageError

PASSWORD = "correct horse Grüße"
ENCODED = passwords.hash_password(Secret(PASSWORD))


def test_generated_passwords_are_long_enough_and_differ() -> None:
    made = {passwords.generate().reveal() for _ in range(200)}
    assert len(made) == 200
    assert {len(password) for password in made} == {passwords.LENGTH}
    assert set("".join(made)) == set(passwords.ALPHABET)
    assert passwords.LENGTH >= 22
    assert passwords.LENGTH * math.log2(len(set(passwords.ALPHABET))) >= 128


def test_generated_passwords_need_no_quoting_and_no_second_look() -> None:
    assert urllib.parse.quote(passwords.ALPHABET, safe="") == passwords.ALPHABET
    assert quote(passwords.ALPHABET) == passwords.ALPHABET
    assert passwords.ALPHABET.isascii()
    assert passwords.ALPHABET.isalnum()
    for alike in ("0Oo", "1lIi", "2Z", "5S", "6G", "8B", "9g"):
        assert len(set(alike) & set(passwords.ALPHABET)) <= 1, alike


def test_the_hash_has_the_stated_parameters_and_its_own_salt() -> None:
    assert ENCODED.startswith("$argon2id$v=19$m=65536,t=2,p=1$")
    assert (passwords.PASSES, passwords.MEMORY_BYTES) == (
        argon2id.OPSLIMIT_INTERACTIVE,
        argon2id.MEMLIMIT_INTERACTIVE,
    )
    again = passwords.hash_password(Secret(PASSWORD))
    assert again != ENCODED
    assert passwords.verify(again, PASSWORD.encode())
    assert PASSWORD not in ENCODED
    assert "\0" not in ENCODED


def test_only_the_password_is_accepted() -> None:
    right = PASSWORD.encode()
    assert passwords.verify(ENCODED, right)
    for wrong in (right[:-1], right + b"x", right.upper(), right + b"\0", b"\0" + right, right + b"\n"):
        assert not passwords.verify(ENCODED, wrong)


@pytest.mark.parametrize("attempt", [b"", b"\0", b"\0" * 16, b"x" * 512, b"x" * 513, b"x" * 100_000, b"\xff\xfe\x80"])
def test_odd_attempts_are_wrong_and_nothing_else(attempt: bytes) -> None:
    assert passwords.verify(ENCODED, attempt) is False
    assert passwords.verify(passwords.DUMMY, attempt) is False


@pytest.mark.parametrize("text", ["", "x" * 511, "\N{GRINNING FACE}" * 100])
def test_odd_passwords_can_be_hashed_and_checked_whole(text: str) -> None:
    encoded = passwords.hash_password(Secret(text))
    assert passwords.verify(encoded, text.encode())
    assert not passwords.verify(encoded, text.encode() + b"y")
    assert not passwords.verify(encoded, b"a")


@pytest.mark.parametrize("text", ["a\0b", "x" * 513])
def test_what_no_client_can_send_is_wrong_even_if_it_was_hashed(text: str) -> None:
    assert not passwords.verify(passwords.hash_password(Secret(text)), text.encode())


@pytest.mark.parametrize("attempt", [b"plain", b"\xff\xfe\x80", b""])
def test_an_attempt_that_was_right_can_be_hashed_anew(attempt: bytes) -> None:
    encoded = passwords.hash_attempt(attempt)
    assert passwords.verify(encoded, attempt)
    assert not passwords.needs_rehash(encoded)


@pytest.mark.parametrize(
    "text", ["12345678", "Gr\u00fc\u00dfe aus K", "with spaces in it", "x" * 512, "\u00fc" * 256, 'a:b"c\\d$e']
)
def test_passwords_people_give_are_taken(text: str) -> None:
    passwords.check_given(Secret(text))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "at least 8"),
        ("1234567", "at least 8"),
        ("x" * 513, "at most 512"),
        ("\u00fc" * 257, "at most 512"),
        ("12345678\n", "control"),
        ("1234\0005678", "control"),
        ("1234\t5678", "control"),
        ("1234\x7f5678", "control"),
        ("1234\x855678", "control"),
        ("1234\u20285678", "control"),
    ],
)
def test_passwords_nobody_could_type_or_should_have_are_refused(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        passwords.check_given(Secret(text))
    if text:
        assert text not in str(caught.value)


def test_a_hash_of_other_parameters_still_counts() -> None:
    older = argon2id.str(b"old", argon2id.OPSLIMIT_MIN, argon2id.MEMLIMIT_MIN).rstrip(b"\0").decode()
    assert passwords.kind(older) == "argon2id"
    assert passwords.needs_rehash(older)
    assert passwords.verify(older, b"old")
    assert not passwords.verify(older, b"new")


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "plain",
        ENCODED[:-1],
        ENCODED + "A",
        ENCODED + "\n",
        ENCODED + "\0",
        ENCODED[:-1] + "B",
        ENCODED.replace("argon2id", "argon2i"),
        ENCODED.replace("v=19", "v=16"),
        ENCODED.replace("m=65536", "m=0"),
        ENCODED.replace("t=2", "t=0"),
        ENCODED.replace("p=1", "p=0"),
        ENCODED.replace("t=2", "t=\N{ARABIC-INDIC DIGIT TWO}"),
        ENCODED.replace("$", "$$"),
        "$6$salt$hash",
        "\udc80",
    ],
)
def test_a_damaged_hash_raises_and_is_not_shown(encoded: str) -> None:
    for ask in (passwords.kind, passwords.needs_rehash):
        with pytest.raises(DamagedSecretError):
            ask(encoded)
    with pytest.raises(DamagedSecretError) as caught:
        passwords.verify(encoded, PASSWORD.encode())
    salt_and_hash = ENCODED.split("$")[-2:]
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not any(part in shown for part in salt_and_hash)
    assert PASSWORD not in shown


def test_the_dummy_costs_what_a_real_hash_costs_and_is_one() -> None:
    assert passwords.DUMMY.split("$")[:4] == ENCODED.split("$")[:4]
    assert [len(part) for part in passwords.DUMMY.split("$")] == [len(part) for part in ENCODED.split("$")]
    assert passwords.kind(passwords.DUMMY) == "argon2id"
    assert not passwords.needs_rehash(passwords.DUMMY)


def test_what_takes_long_is_told() -> None:
    assert not passwords.is_slow(passwords.hash_password(Secret("correct horse")))
    assert not passwords.is_slow(passwords.DUMMY)
    assert not passwords.is_slow(f"sha512+{passwords.DUMMY}")
    assert passwords.is_slow(passwords.DUMMY.replace("m=65536", "m=131072"))
    assert passwords.is_slow("$6$abcdefgh$" + "a" * 85 + ".")
