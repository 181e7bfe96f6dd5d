"""The decision who may enter."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from hatchway import addresses
from hatchway.access.decision import (
    CredentialFacts,
    Denial,
    LoginFacts,
    UsedCredential,
    decide_keys,
    decide_login,
    decide_open_session,
    decide_session,
)
from hatchway.access.service import parse, used_credential

HERE = addresses.address("192.0.2.7")
NETWORKS = addresses.networks(["192.0.2.0/24", "2001:db8::/32"])
ELSEWHERE = addresses.networks(["198.51.100.0/24"])
GOOD = LoginFacts(known=True, now=1000.0, shares=1, address=HERE, sessions_max=2)
KEY = UsedCredential("publickey", (CredentialFacts(),))
PASSWORD = UsedCredential("password", (CredentialFacts(),))

# What is wrong, in the order in which it is told.
OF_LOGIN = [
    ({"service_is_ours": False}, Denial.WRONG_SERVICE),
    ({"known": False}, Denial.UNKNOWN_LOGIN),
    ({"shares": 0}, Denial.NOTHING_SHARED),
    ({"locked": True}, Denial.LOCKED),
    ({"expires_at": 1000.0}, Denial.EXPIRED),
]
OF_CLIENT = [
    ({"allowed_from": ELSEWHERE}, Denial.ADDRESS),
    ({"sessions": 2}, Denial.SESSIONS),
]
OF_CREDENTIAL = [
    (UsedCredential("keyboard-interactive", (CredentialFacts(),)), Denial.METHOD_UNKNOWN),
    (UsedCredential("", ()), Denial.METHOD_UNKNOWN),
    (UsedCredential("publickey"), Denial.CREDENTIAL_GONE),
    (UsedCredential("password"), Denial.CREDENTIAL_GONE),
    (UsedCredential("publickey", (CredentialFacts(expires_at=999.0),)), Denial.CREDENTIAL_EXPIRED),
    (UsedCredential("password", (CredentialFacts(expires_at=1000.0),)), Denial.CREDENTIAL_EXPIRED),
    (UsedCredential("publickey", (CredentialFacts(sources="198.51.100.0/24"),)), Denial.CREDENTIAL_ADDRESS),
    (UsedCredential("publickey", (CredentialFacts(sources="192.0.2.0/24,!192.0.2.7"),)), Denial.CREDENTIAL_ADDRESS),
]


@pytest.mark.parametrize("credential", [KEY, PASSWORD])
def test_a_known_login_with_a_share_may_enter(credential: UsedCredential) -> None:
    for facts in (
        GOOD,
        replace(GOOD, allowed_from=NETWORKS, expires_at=1000.1, sessions=1),
        replace(GOOD, allowed_from=NETWORKS, address=addresses.address("2001:db8::1")),
        replace(GOOD, allowed_from=NETWORKS, address=addresses.address("::ffff:192.0.2.7")),
    ):
        assert decide_keys(facts) is None
        assert decide_login(facts) is None
        assert decide_session(facts, credential) is None
        assert decide_open_session(facts, credential) is None


@pytest.mark.parametrize("credential", [KEY, PASSWORD])
@pytest.mark.parametrize(("changes", "denial"), OF_LOGIN)
def test_what_concerns_the_login_is_decided_at_every_stage(
    changes: dict[str, object], denial: Denial, credential: UsedCredential
) -> None:
    facts = replace(GOOD, **changes)  # type: ignore[arg-type] # the fields it has
    assert decide_keys(facts) is denial
    assert decide_login(facts) is denial
    assert decide_session(facts, credential) is denial
    # What a session sees is decided elsewhere.
    assert decide_open_session(facts, credential) is (None if denial is Denial.NOTHING_SHARED else denial)


@pytest.mark.parametrize(("changes", "denial"), OF_CLIENT)
def test_where_somebody_is_is_decided_when_that_is_known(changes: dict[str, object], denial: Denial) -> None:
    facts = replace(GOOD, **changes)  # type: ignore[arg-type] # the fields it has
    assert decide_keys(facts) is None, "sshd does not say there where the client is"
    assert decide_login(facts) is denial
    assert decide_session(facts, KEY) is denial
    # Who is in may stay though there are too many now.
    assert decide_open_session(facts, KEY) is (None if denial is Denial.SESSIONS else denial)


def test_nobody_comes_from_nowhere() -> None:
    unknown = replace(GOOD, address=None)
    assert decide_login(unknown) is None
    assert decide_login(replace(unknown, allowed_from=NETWORKS)) is Denial.ADDRESS
    limited = UsedCredential("publickey", (CredentialFacts(sources="*"),))
    assert decide_session(unknown, limited) is Denial.CREDENTIAL_ADDRESS
    assert decide_session(GOOD, limited) is None


@pytest.mark.parametrize(("credential", "denial"), OF_CREDENTIAL)
@pytest.mark.parametrize("decide", [decide_session, decide_open_session])
def test_a_credential_must_be_valid(
    decide: Callable[[LoginFacts, UsedCredential], Denial | None], credential: UsedCredential, denial: Denial
) -> None:
    assert decide(GOOD, credential) is denial


def test_a_key_that_is_valid_in_several_ways_needs_one_of_them() -> None:
    expired, elsewhere, good = CredentialFacts(1.0), CredentialFacts(sources="198.51.100.1"), CredentialFacts()
    for ways in itertools.permutations((expired, elsewhere, good)):
        assert decide_session(GOOD, UsedCredential("publickey", ways)) is None
    assert decide_session(GOOD, UsedCredential("publickey", (expired, elsewhere))) is Denial.CREDENTIAL_EXPIRED


def test_no_good_makes_up_for_a_bad() -> None:
    """Every combination of what may be wrong is refused, for the reason that comes first."""
    wrong: list[tuple[dict[str, object], Denial]] = [*OF_LOGIN, *OF_CLIENT]  # type: ignore[list-item] # any fields
    for chosen in itertools.product([False, True], repeat=len(wrong)):
        faults = [fault for fault, is_there in zip(wrong, chosen, strict=True) if is_there]
        changes = {name: value for fields, _ in faults for name, value in fields.items()}
        facts = replace(GOOD, **changes)  # type: ignore[arg-type] # the fields it has
        for credential, denial in [(KEY, None), *OF_CREDENTIAL]:
            assert decide_session(facts, credential) is (faults[0][1] if faults else denial)


def test_sshds_words_for_the_credential() -> None:
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32).decode()
    method, key = used_credential(f"publickey ssh-ed25519 {blob}\n".encode())
    assert method == "publickey"
    assert key is not None
    assert key.startswith("SHA256:")
    assert used_credential(b"password\n") == ("password", None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"password\npassword\n",
        b"password x\n",
        b"publickey\n",
        b"publickey ssh-ed25519 !!\n",
        b"\xff",
        b"none",
    ],
)
def test_anything_else_is_no_credential(text: bytes) -> None:
    assert used_credential(text) == ("", None)


def test_a_request_is_fields_with_nul_between_them() -> None:
    assert parse(b"op=auth\0login=a\0password=x=y\xff") == {"op": b"auth", "login": b"a", "password": b"x=y\xff"}


@pytest.mark.parametrize("request_", [b"", b"op", b"\0", b"op=a\0op=b", b"op=a\0", b"=a", b"o p=a", b"op=a\0\0a=b"])
def test_anything_else_is_no_request(request_: bytes) -> None:
    with pytest.raises(ValueError, match="bad field"):
        parse(request_)
