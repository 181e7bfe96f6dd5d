"""Whatever sshd, PAM, a client or a broken core gives the helpers of src/libexec: they end, with one of two statuses.

They are run as programs, since that is all there is of them, so the tries are few. HATCHWAY_FUZZ=NUMBER makes them so
many times as much, and others every time.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.core.soup import budget
from tests.unit.sshd.test_login_helpers import LIBEXEC, PYTHON, fields

if TYPE_CHECKING:
    from tests.unit.sshd.conftest import FakeCore

pytestmark = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"no {PYTHON}")

BOUNDS = {
    "PAM_TYPE": 1024,
    "PAM_USER": 1024,
    "PAM_RHOST": 1024,
    "PAM_SERVICE": 1024,
    "SSH_CONNECTION": 1024,
    "SSH_AUTH_INFO_0": 16384,
}
NAMES = {
    "PAM_USER": b"login",
    "PAM_RHOST": b"rhost",
    "PAM_SERVICE": b"service",
    "SSH_CONNECTION": b"connection",
    "SSH_AUTH_INFO_0": b"authinfo",
}
STAGES = {b"auth": b"auth", b"account": b"account", b"open_session": b"open", b"close_session": b"close"}

# What an environment can hold: anything but NUL.
VALUES = st.binary(max_size=60).map(lambda value: value.replace(b"\0", b"=")) | st.sampled_from(
    (b"", b"=", b"\n", b"op=open", b"password=x", b"x" * 1024, b"x" * 1025, b"x" * 16384, b"x" * 16385)
)
REPLIES = (
    st.binary(max_size=40)
    | st.sampled_from(
        (b"ok\n", b"ok", b"no\n", b"no", b"ok\n\n", b"ok\nx", b"ok\nssh-ed25519 AAAA\n", b"ok\n" + b"x" * 5000)
    )
    | st.binary(max_size=40).map(lambda rest: b"ok\n" + rest)
)


def ended(
    program: str, *arguments: str | bytes, stdin: bytes = b"", env: dict[str, bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([LIBEXEC / program, *arguments], input=stdin, capture_output=True, env=env or {}, timeout=30)


@budget(60)
@given(
    stage=st.sampled_from(sorted(STAGES)) | VALUES,
    environment=st.dictionaries(st.sampled_from(sorted(NAMES)), VALUES),
    stdin=st.binary(max_size=40) | st.sampled_from((b"x" * 512, b"x" * 513, b"x" * 512 + b"\0", b"op=open\0login=x")),
    reply=REPLIES,
)
def test_pam_lets_in_for_nothing_but_a_whole_yes(
    core: FakeCore, stage: bytes, environment: dict[str, bytes], stdin: bytes, reply: bytes
) -> None:
    core.requests.clear()
    core.says(reply)
    values = {"PAM_TYPE": stage, **environment}
    done = ended("pam", core.path, stdin=stdin, env=values)
    assert (done.stdout, done.stderr) == (b"", b"")
    password = stdin.removesuffix(b"\0")
    possible = stage in STAGES and all(len(value) <= BOUNDS[name] for name, value in values.items())
    if stage == b"auth":
        possible = possible and len(password) <= 512 and b"\0" not in password
    assert len(core.requests) == possible
    assert done.returncode == (0 if possible and reply.startswith(b"ok\n") and len(reply) <= 4096 else 1)
    for request in core.requests:
        # Each field once, with what was given and nothing that was in another.
        asked = fields(request)
        assert len(asked) == request.count(b"\0") + 1
        assert asked.pop(b"op") == STAGES[stage]
        assert asked.pop(b"pid").isdigit()
        if stage == b"auth":
            assert asked.pop(b"password") == password
        assert asked == {field: environment.get(name, b"") for name, field in NAMES.items()}


@budget(40)
@given(login=VALUES, reply=REPLIES)
@example(login=b"op=auth", reply=b"ok\nssh-ed25519 AAAA\n")
def test_keys_are_printed_as_they_came_or_not_at_all(core: FakeCore, login: bytes, reply: bytes) -> None:
    core.requests.clear()
    core.says(reply)
    done = ended("authorized-keys", core.path, login)
    possible = 0 < len(login) <= 1024
    assert core.requests == ([b"op=keys\0login=" + login] if possible else [])
    right = reply.startswith(b"ok\n") and reply.endswith(b"\n") and b"\0" not in reply
    if possible and (right or reply in (b"no", b"no\n")):
        assert (done.returncode, done.stdout, done.stderr) == (0, reply[3:] if right else b"", b"")
    else:
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"\n") == 1
