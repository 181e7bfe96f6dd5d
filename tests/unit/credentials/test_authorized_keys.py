"""authorized_keys: what a line restricts is kept, what it would grant is not given, what is bad is said and skipped."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.addresses import address, from_matches
from hatchway.credentials.authorized import FILE_BYTES_MAX, LINES_MAX, Entry, line, parse, parse_expiry
from hatchway.credentials.keys import generate_ed25519, generate_rsa, parse_public
from hatchway.errors import UsageError

PAIR = generate_ed25519("me@pc")
KEY = PAIR.public
TYPE, TEXT, COMMENT = KEY.split()
RSA = generate_rsa(2048, "").public


def _only(text: str) -> Entry:
    found = parse(text.encode("utf-8", "surrogateescape"))
    assert found.bad == ()
    assert len(found.entries) == 1
    return found.entries[0]


def _reason(text: str) -> str:
    found = parse(text.encode("utf-8", "surrogateescape"))
    assert found.entries == ()
    assert len(found.bad) == 1
    return found.bad[0].reason


def test_a_file_with_a_bit_of_everything() -> None:
    content = f"""# a comment

   \t
{KEY}
\t{RSA} a comment of words\r
this is no key
restrict,from="192.0.2.0/24,!192.0.2.9",expiry-time="20300102030405Z" {KEY}
  # {KEY}
ssh-dss AAAA
"""
    found = parse(content.encode())
    assert [(entry.number, entry.key.algorithm, entry.key.comment) for entry in found.entries] == [
        (4, "ssh-ed25519", "me@pc"),
        (5, "ssh-rsa", "a comment of words"),
        (7, "ssh-ed25519", "me@pc"),
    ]
    assert found.entries[0] == Entry(4, parse_public(KEY), None, None, False)
    assert found.entries[2].sources == "192.0.2.0/24,!192.0.2.9"
    assert found.entries[2].expires_at == int(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    assert [bad.number for bad in found.bad] == [6, 9]


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n#\n", b"\xff", b"\0", b"\r\n \t\r\n"])
def test_files_without_keys(content: bytes) -> None:
    assert parse(content).entries == ()


@pytest.mark.parametrize(
    "options",
    [
        "restrict", "RESTRICT", "no-pty,no-port-forwarding", "no-agent-forwarding,no-X11-forwarding,no-user-rc",
        "pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc", "no-touch-required", "touch-required",
        'permitopen="host:1",permitlisten="[::1]:2"', 'tunnel="0"', 'environment="A=b c,d"', 'command="internal-sftp"',
        'environment="A=\\"x\\" y"', 'restrict,environment="LD_PRELOAD=/x",pty',
    ],
)  # fmt: skip
def test_what_would_grant_something_or_is_so_anyway_is_dropped(options: str) -> None:
    assert _only(f"{options} {KEY}") == Entry(1, parse_public(KEY), None, None, False)


def test_what_restricts_is_kept() -> None:
    assert _only(f'from="10.0.0.0/8" {KEY}').sources == "10.0.0.0/8"
    assert _only(f'FROM="10.*,!10.0.0.1",no-pty  \t{KEY}').sources == "10.*,!10.0.0.1"
    assert _only(f"verify-required {KEY}").verify_required
    # sshd takes the last one; a contradiction is no reason to let in more.
    assert _only(f"verify-required,no-verify-required {KEY}").verify_required
    assert not _only(f"no-verify-required {KEY}").verify_required
    early, late = "20300101Z", "20310101Z"
    assert _only(f'expiry-time="{late}",expiry-time="{early}" {KEY}').expires_at == parse_expiry(early)
    assert _only(f'expiry-time="{early}",expiry-time="{late}" {KEY}').expires_at == parse_expiry(early)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'command="rsync --server" {KEY}', "for one command only"),
        (f'command="internal-sftp -R" {KEY}', "for one command only"),
        (f'command="/usr/lib/openssh/sftp-server" {KEY}', "for one command only"),
        (f'command="" {KEY}', "for one command only"),
        (f'COMMAND="x" {KEY}', "for one command only"),
        (f'command="internal-sftp",command="internal-sftp" {KEY}', "is there twice"),
        (f'from="10.0.0.1",from="10.0.0.2" {KEY}', "is there twice"),
        (f"cert-authority {KEY}", "certificates are not taken"),
        (f'principals="root" {KEY}', "certificates are not taken"),
        (f"restrict,read-only {KEY}", "an option that is not known"),
        (f'quota="5" {KEY}', "an option with a value that is not known"),
        (f"no-restrict {KEY}", "an option that is not known"),
        (f"ptys {KEY}", "an option that is not known"),
        (f'restrict="yes" {KEY}', "takes no value"),
        (f'verify-required="yes" {KEY}', "takes no value"),
        (f"from {KEY}", "needs a value in quotes"),
        (f"expiry-time {KEY}", "needs a value in quotes"),
        (f"from=10.0.0.1 {KEY}", "not in quotes"),
        (f"restrict, {KEY}", "make no sense"),
        (f"restrict,,pty {KEY}", "make no sense"),
        (f",restrict {KEY}", "make no sense"),
        (f'from="10.0.0.1"pty {KEY}', "make no sense"),
        (f'from="10.0.0.1",\\"pty {KEY}', "make no sense"),
        (f"restrict,pty\u00e9 {KEY}", "make no sense"),
        (f'from="10.0.0.1 {KEY}', "a quote is not closed"),
        (f'from="10.0.0.1\\" {KEY}', "a quote is not closed"),
        (f'from="" {KEY}', "a pattern is missing"),
        (f'from="10.0.0.1/8" {KEY}', "bits are set"),
        (f'from="10.0.0.1, 10.0.0.2" {KEY}', "without spaces"),
        (f'from="10.0.0.\\"1" {KEY}', "quotes"),
        (f'from="!evil.example.com,*" {KEY}', "keeps nobody out"),
        (f'from="*a*a*a*a*a*a*a*a" {KEY}', "more than 4 times"),
        (f'expiry-time="tomorrow" {KEY}', "expected YYYYMMDD"),
        (f'expiry-time="" {KEY}', "expected YYYYMMDD"),
        (f'expiry-time="20300231" {KEY}', "no such date"),
        (f"{TYPE}", "no public key"),
        (f"{TYPE} ", "no public key"),
        (TEXT, "no public key"),
        (f"{TEXT} {TYPE}", "no public key"),
        (f"host.example.com,192.0.2.1 {TEXT}", "no public key"),
        (f"{TYPE} {TEXT[:-4]}", "damaged"),
        (f"{TYPE} {TEXT}\0 x", "NUL"),
        (f"{TYPE} {TEXT}AAAA", "damaged"),
        (f"restrict {TYPE} {TEXT[:-4]}", "damaged"),
        (f"restrict pty {KEY}", "no public key"),
        (f"ssh-dss {TEXT}", "DSA"),
        (f"ssh-ed25519-cert-v01@openssh.com {TEXT}", "certificates"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        (f"{KEY} {'x' * 8192}", "longer than 8192"),
        ("\udcff\udcfe", "no public key"),
    ],
)
def test_a_bad_line_says_why_and_nothing_of_the_key(text: str, match: str) -> None:
    reason = _reason(text)
    assert match in reason
    assert "\n" not in reason
    assert len(reason) < 300
    assert TEXT[20:30] not in reason


def test_a_bad_line_does_not_spoil_the_others() -> None:
    found = parse(f'command="x" {KEY}\n{KEY}\nfrom="10.0.0.1 {KEY}\n{RSA}\n'.encode())
    assert [entry.number for entry in found.entries] == [2, 4]
    assert [bad.number for bad in found.bad] == [1, 3]


def test_a_private_key_that_was_pasted_is_not_shown() -> None:
    lines = PAIR.private.reveal().splitlines()
    found = parse("\n".join(lines).encode())
    assert found.entries == ()
    shown = " ".join(bad.reason for bad in found.bad)
    assert not any(one in shown for one in lines)


def test_the_number_of_lines_is_bounded() -> None:
    most = parse((f"{KEY}\n# comment\n\n" * LINES_MAX).encode())
    assert len(most.entries) == LINES_MAX
    assert most.bad == ()
    more = parse((f"{KEY}\n" * (LINES_MAX + 5)).encode())
    assert len(more.entries) == LINES_MAX
    assert [(bad.number, "200 lines" in bad.reason) for bad in more.bad] == [(LINES_MAX + 1, True)]
    nonsense = parse(b"x\n" * 1000)
    assert len(nonsense.bad) == LINES_MAX + 1


def test_the_size_is_bounded_and_a_line_that_is_cut_is_not_read() -> None:
    # Cut at the right place, `restrict,from="…" KEY` would still be whole, and so would its beginning be a key.
    head = f"{KEY}\n#" + "x" * (FILE_BYTES_MAX - len(KEY) - 2 - len(RSA) - 1) + "\n"
    exact = parse((head + RSA).encode())
    assert len((head + RSA).encode()) == FILE_BYTES_MAX
    assert [entry.number for entry in exact.entries] == [1, 3]
    assert exact.bad == ()
    cut = parse((head + RSA + " comment\n").encode())
    assert [entry.number for entry in cut.entries] == [1]
    assert [(bad.number, "65536 bytes" in bad.reason) for bad in cut.bad] == [(3, True)]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("20300701Z", "2030-07-01T00:00:00"),
        ("203007011234Z", "2030-07-01T12:34:00"),
        ("20300701123456Z", "2030-07-01T12:34:56"),
        ("20300701123456z", "2030-07-01T12:34:56"),
        ("20300701123456UTC", "2030-07-01T12:34:56"),
        ("20300701utc", "2030-07-01T00:00:00"),
        # CET in winter; and in summer too, since sshd asks for standard time: one hour later than a clock shows.
        ("20300101120000", "2030-01-01T11:00:00"),
        ("203007011200", "2030-07-01T11:00:00"),
        ("20300701", "2030-06-30T23:00:00"),
        ("20280229Z", "2028-02-29T00:00:00"),
        ("19600101Z", "1960-01-01T00:00:00"),
    ],
)
def test_all_forms_of_expiry_times(text: str, meant: str, zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    assert parse_expiry(text) == int(datetime.fromisoformat(f"{meant}+00:00").timestamp())


@pytest.mark.parametrize(
    "text",
    ["", "Z", "UTC", "2030", "2030-01-01", "20300101T", "203001011", "2030010112", "2030010112345", "20301301Z",
     "20300100Z", "20300230Z", "20300101240000Z", "20300101006000Z", "20300101000060Z", "00000101Z", " 20300101",
     "20300101 ", "20300101ZZ", "20300101UTCZ", "+0300101", "-0300101", "2030010\u0661", "9" * 5000],
)  # fmt: skip
def test_other_expiry_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expiry-time: (expected|there is no such)"):
        parse_expiry(text)


def test_lines_for_sshd() -> None:
    assert line(KEY) == f"restrict {KEY}"
    assert (
        line(f"{TYPE} {TEXT}", sources="10.0.0.0/8,!10.0.0.1") == f'restrict,from="10.0.0.0/8,!10.0.0.1" {TYPE} {TEXT}'
    )
    moment = int(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    assert line(KEY, expires_at=moment) == f'restrict,expiry-time="20300102030405Z" {KEY}'
    assert (
        line(KEY, sources="*", expires_at=moment, verify_required=True)
        == f'restrict,from="*",expiry-time="20300102030405Z",verify-required {KEY}'
    )


@pytest.mark.parametrize("expires_at", [-(10**12), -1, 0, 1, 253402300799, 10**15])
def test_no_moment_becomes_never(expires_at: int) -> None:
    # 0 would spoil the line, a negative one would be taken for the far future by sshd.
    written = _only(line(KEY, expires_at=expires_at)).expires_at
    assert written == min(max(expires_at, 1), 253402300799)


@pytest.mark.parametrize("sources", ["", "10.0.0.1 ", '10.0.0.1" ssh-ed25519', "10.0.0.1\n", "10.0.0.1/8", "a" * 2000])
def test_sources_that_sshd_would_misread_are_not_written(sources: str) -> None:
    with pytest.raises(UsageError):
        line(KEY, sources=sources)


@pytest.mark.parametrize(
    "public",
    ["", KEY + "\n", f"{KEY}\n{RSA}", f"restrict {KEY}", f'pty,command="x" {KEY}', KEY.replace(" ", "\t"), KEY + "\0",
     f" {KEY}", f"{KEY}\u2028x", TYPE, f"{TYPE} ", f"{TYPE} {TEXT} \x1b[2J"],
)  # fmt: skip
def test_what_is_no_stored_key_is_not_written(public: str) -> None:
    with pytest.raises(ValueError, match="as it is stored"):
        line(public)


PIECES = st.sampled_from(
    ["restrict", "pty", "no-", "verify-required", "cert-authority", 'command="', 'from="', 'expiry-time="',
     "internal-sftp", '"', '\\"', "\\", ",", "=", " ", "\t", "\n", "\r", "\0", "#", "10.0.0.0/8", "!", "*",
     "20300101", "Z", KEY, TYPE, TEXT, RSA, "\u00e9", "environment=", "tunnel="]
)  # fmt: skip
FILES = st.one_of(
    st.binary(max_size=2000),
    st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=30).map("".join).map(str.encode),
)


@settings(max_examples=1500, deadline=None)
@given(FILES)
def test_any_file_is_read_and_what_is_taken_can_be_written(content: bytes) -> None:
    found = parse(content)
    for entry in found.entries:
        written = line(
            entry.key.line,
            sources=entry.sources,
            expires_at=entry.expires_at,
            verify_required=entry.verify_required,
        )
        again = _only(written)
        assert (again.key.line, again.sources, again.verify_required) == (
            entry.key.line,
            entry.sources,
            entry.verify_required,
        )
        assert (again.expires_at is None) is (entry.expires_at is None)
        if entry.sources is not None:
            client = address("10.0.0.1")
            assert client is not None
            from_matches(entry.sources, client)
    for bad in found.bad:
        assert bad.reason.isprintable()
        assert TEXT[20:30] not in bad.reason


@pytest.mark.parametrize("content", [
    ('from="' + "\\" * 60000).encode(), ('from="' + '\\"' * 30000 + '" ' + KEY).encode(),
    ("a," * 4000 + " " + KEY).encode(),
    (('environment="' + "x\\" * 3000 + '",') + KEY).encode() * 10, b" " * 65536, b"\n" * 65536, b"\xff" * 65536,
    ('from="' + "!" * 999 + f'" {KEY}\n').encode() * 40,
])  # fmt: skip
def test_no_file_takes_long(content: bytes) -> None:
    began = time.monotonic()
    parse(content)
    assert time.monotonic() - began < 1


def _keygen_takes(text: str, path: Path) -> bool:
    path.write_text(text + "\n")
    return subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True).returncode == 0


@pytest.mark.skipif(not os.access("/usr/bin/ssh-keygen", os.X_OK), reason="ssh-keygen is not installed")
def test_ssh_keygen_finds_the_key_behind_the_options(tmp_path: Path) -> None:
    for written in (
        line(KEY, sources="10.0.0.0/8,*", expires_at=2**31, verify_required=True),
        f'environment="A=\\" b" {KEY}',
    ):
        assert _only(written).key == parse_public(KEY)
        assert _keygen_takes(written, tmp_path / "one")
