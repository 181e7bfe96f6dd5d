"""The decision who may enter."""

from __future__ import annotations

import base64

import pytest

from hatchway.access.decision import CredentialFacts, Denial, LoginFacts, decide_login, decide_session
from hatchway.access.service import parse, used_credential

GOOD = LoginFacts(known=True, shares=1, service_is_ours=True)
KEY = CredentialFacts("publickey", "SHA256:a", frozenset({"SHA256:a"}), has_password=True)


def test_a_known_login_with_a_share_may_enter() -> None:
    assert decide_login(GOOD) is None
    assert decide_session(GOOD, KEY) is None
    assert decide_session(GOOD, CredentialFacts("password", None, frozenset(), has_password=True)) is None


@pytest.mark.parametrize(
    ("facts", "denial"),
    [
        (LoginFacts(known=False, shares=0, service_is_ours=True), Denial.UNKNOWN_LOGIN),
        (LoginFacts(known=True, shares=0, service_is_ours=True), Denial.NOTHING_SHARED),
        (LoginFacts(known=True, shares=1, service_is_ours=False), Denial.WRONG_SERVICE),
    ],
)
def test_what_concerns_the_login_is_decided_at_both_stages(facts: LoginFacts, denial: Denial) -> None:
    assert decide_login(facts) is denial
    assert decide_session(facts, KEY) is denial


@pytest.mark.parametrize(
    ("credential", "denial"),
    [
        (CredentialFacts("publickey", "SHA256:b", frozenset({"SHA256:a"}), True), Denial.CREDENTIAL_GONE),
        (CredentialFacts("publickey", None, frozenset({"SHA256:a"}), True), Denial.CREDENTIAL_GONE),
        (CredentialFacts("password", None, frozenset({"SHA256:a"}), False), Denial.CREDENTIAL_GONE),
        (CredentialFacts("keyboard-interactive", None, frozenset(), True), Denial.METHOD_UNKNOWN),
        (CredentialFacts("", None, frozenset(), True), Denial.METHOD_UNKNOWN),
    ],
)
def test_a_credential_must_still_be_valid(credential: CredentialFacts, denial: Denial) -> None:
    assert decide_session(GOOD, credential) is denial


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
