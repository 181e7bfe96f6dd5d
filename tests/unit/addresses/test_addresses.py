"""Addresses, allow-lists and from=: what they let in is what people and sshd mean by them."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway import addresses
from hatchway.addresses import Address, address, check_from, check_patterns, from_matches, networks, within
from hatchway.errors import UsageError

SSHD = "/usr/sbin/sshd"


def _known(text: str) -> Address:
    found = address(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("::1", "::1"),
    ],
)
def test_an_address_is_what_sshd_knows_the_client_by(text: str, meant: str) -> None:
    assert str(address(text)) == meant


@pytest.mark.parametrize(
    "text",
    ["", "UNKNOWN", "localhost", "10.1", "1.2.3.4 ", "1.2.3.4\n", "01.2.3.4", "::g", "1.2.3.4/32", "[::1]", "1" * 9999,
     "fe80::1%" + "e" * 9999, "\N{ARABIC-INDIC DIGIT ONE}.2.3.4", "1.2.3.4\0"],
)  # fmt: skip
def test_anything_else_is_no_address(text: str) -> None:
    assert address(text) is None


def test_networks_are_read_once_each() -> None:
    found = networks(["192.0.2.0/24", " 192.0.2.0/24", "198.51.100.7", "2001:db8::/32", "::1", "0.0.0.0/0"])
    assert [str(network) for network in found] == [
        "192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "::1/128", "0.0.0.0/0",
    ]  # fmt: skip
    assert networks(()) == ()


def test_mapped_networks_are_the_ipv4_networks_they_stand_for() -> None:
    assert networks(["::ffff:192.0.2.0/120", "::ffff:192.0.2.9"]) == networks(["192.0.2.0/24", "192.0.2.9"])
    assert within(networks(["::ffff:192.0.2.0/120"]), address("192.0.2.200"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("10.0.0.7/8", r"write 10\.0\.0\.0/8 or, for it alone, 10\.0\.0\.7$"),
        ("2001:db8::1/32", r"write 2001:db8::/32 or, for it alone, 2001:db8::1$"),
        ("example.com", "not a network"),
        ("10.1", "not a network"),
        ("10.0.0.0/255.0.0.0", "not a network"),
        ("10.0.0.0/0.255.255.255", "not a network"),
        ("10.0.0.0/33", "not a network"),
        ("10.0.0.0/-8", "not a network"),
        ("10.0.0.0/", "not a network"),
        ("10.0.0.0/\N{ARABIC-INDIC DIGIT EIGHT}", "not a network"),
        ("!10.0.0.0/8", "not a network"),
        ("", "not a network"),
        ("fe80::%eth0/10", "zone"),
        ("\x1b[2J", r"\\x1b"),
        ("9" * 5000, "not a network"),
    ],
)
def test_what_is_no_network_is_refused_with_what_was_meant(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        networks([text])
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None


def test_a_list_is_bounded() -> None:
    most = [f"10.0.{number}.0/24" for number in range(addresses.NETWORKS_MAX)]
    assert len(networks(most)) == addresses.NETWORKS_MAX
    assert len(networks(most * 2)) == addresses.NETWORKS_MAX
    with pytest.raises(UsageError, match="more than 100"):
        networks([*most, "10.1.0.0/24"])


def test_without_a_list_anybody_may_and_with_one_only_who_is_in_it() -> None:
    assert within((), address("192.0.2.1"))
    assert within((), None)
    allowed = networks(["192.0.2.0/24", "2001:db8::/32"])
    for text in ("192.0.2.1", "192.0.2.255", "2001:db8:ffff::", "::ffff:192.0.2.3"):
        assert within(allowed, address(text)), text
    for text in ("192.0.3.1", "2001:db9::", "::c000:201", "unknown"):
        assert not within(allowed, address(text)), text


FROM = [
    # patterns, client, let in
    ("192.0.2.7", "192.0.2.7", True),
    ("192.0.2.7", "192.0.2.70", False),
    ("192.0.2.0/24", "192.0.2.7", True),
    ("192.0.2.0/24", "192.0.3.7", False),
    ("192.0.2.0/024", "192.0.2.7", True),
    ("192.0.2.0/24,198.51.100.1", "198.51.100.1", True),
    ("!192.0.2.7,192.0.2.0/24", "192.0.2.7", False),
    ("192.0.2.0/24,!192.0.2.7", "192.0.2.7", False),
    ("192.0.2.0/24,!192.0.2.7", "192.0.2.8", True),
    ("!192.0.2.7", "192.0.2.8", False),
    ("!192.0.2.0/24,*", "198.51.100.1", True),
    ("!192.0.2.0/24,*", "192.0.2.1", False),
    ("*", "2001:db8::1", True),
    ("192.0.2.*", "192.0.2.7", True),
    ("192.0.*.7", "192.0.2.7", True),
    ("192.0.2.?", "192.0.2.7", True),
    ("192.0.2.?", "192.0.2.70", False),
    ("192.0.2.??", "192.0.2.7", False),
    ("*.7", "192.0.2.7", True),
    ("*.*.*.*", "192.0.2.7", True),
    ("**7", "192.0.2.7", True),
    ("2001:db8::/32", "2001:db8:1::9", True),
    ("2001:db8::/32", "2001:db9::9", False),
    ("2001:DB8::1", "2001:db8::1", True),
    ("2001:db8::*", "2001:db8::1", True),
    ("::ffff:192.0.2.7", "192.0.2.7", False),
    ("0.0.0.0/0", "192.0.2.7", True),
    ("0.0.0.0/0", "2001:db8::1", False),
    ("::/0", "192.0.2.7", False),
    ("192.0.2", "192.0.0.2", True),
    ("10.1", "10.0.0.1", True),
    ("0x0a.1", "10.0.0.1", True),
    ("!10.1,*", "10.0.0.1", False),
    ("3221225991", "192.0.2.7", True),
    ("192.0.2.7/33x", "192.0.2.7", False),
    ("office.example.com", "192.0.2.7", False),
    ("office.example.com,192.0.2.7", "192.0.2.7", True),
    ("::1.2.3.?", "::1.2.3.4", True),
    ("!!192.0.2.7,*", "192.0.2.7", True),
]  # fmt: skip

SPOILT = ["", ",", "192.0.2.7,", ",192.0.2.7", "!", "!,*", "192.0.2.7/24,*", "*,192.0.2.7/24", "*,192.0.2.0/33",
          "*,2001:db8::1/32"]  # fmt: skip


@pytest.mark.parametrize(("patterns", "client", "let_in"), FROM)
def test_from_lets_in_whom_it_says(patterns: str, client: str, let_in: bool) -> None:
    assert from_matches(patterns, _known(client)) is let_in


@pytest.mark.parametrize("patterns", SPOILT)
def test_a_spoilt_list_lets_nobody_in(patterns: str) -> None:
    assert not from_matches(patterns, _known("192.0.2.7"))
    with pytest.raises(UsageError):
        check_patterns(patterns)


def test_capital_letters_in_wildcards_match_as_a_host_name_would() -> None:
    assert from_matches("2001:DB8::*", _known("2001:db8::1"))
    assert not from_matches("!2001:DB8::*,*", _known("2001:db8::1"))


@pytest.fixture(scope="module")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sshd") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.mark.skipif(not os.access(SSHD, os.X_OK), reason="sshd is not installed")
def test_sshd_answers_the_same(host_key: Path) -> None:
    # Match Address is the same function as from=, addr_match_list, and `-T -C` asks it.
    Path("/run/sshd").mkdir(exist_ok=True)
    wrong = []
    for patterns, client, let_in in FROM:
        config = host_key.with_name("config")
        config.write_text(f"HostKey {host_key}\nMaxAuthTries 5\nMatch Address {patterns}\nMaxAuthTries 3\n")
        done = subprocess.run(
            [SSHD, "-T", "-f", str(config), "-C", f"user=root,host={client},addr={client}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (patterns, done.stderr)
        if ("maxauthtries 3" in done.stdout) is not let_in:
            wrong.append((patterns, client))
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["192.0.2.7", "192.0.2.0/24,!192.0.2.9", "2001:db8::/32", "192.0.2.*", "*", "!10.0.0.0/8,*", "fe80::*"]
)
def test_good_lists_are_taken(text: str) -> None:
    check_patterns(text)
    check_from(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('192.0.2.7" ssh-ed25519 AAAA', "without spaces, quotes"),
        ('192.0.2.7\\"', "without spaces, quotes"),
        ("192.0.2.7, 192.0.2.8", "without spaces, quotes"),
        ("192.0.2.7\t", "without spaces, quotes"),
        ("192.0.2.7\n", "without spaces, quotes"),
        ("192.0.2.7\0", "without spaces, quotes"),
        ("b\u00fcro", "without spaces, quotes"),
        ("", "a pattern is missing"),
        ("192.0.2.7/24", "bits are set"),
        ("*a*b*c*d*", "more than 4 times"),
        ("!pc.example.com,*", "keeps nobody out"),
        ("pc.example.com", "no address matches"),
        ("*.example.com", "no address matches"),
        ("!192.0.2.7", "no address matches"),
        ("1," * 600 + "1", "longer than 1000"),
    ],
)
def test_what_sshd_would_choke_on_or_not_heed_is_refused(text: str, match: str) -> None:
    for check in (check_patterns, check_from):
        with pytest.raises(UsageError, match=match):
            check(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("10.1", "not a network"),
        ("192.0.2.7,pc.example.com", "not a network"),
        ("192.0.2.7,*.example.com", "matches no address"),
        ("192.0.2.7,2001:DB8::*", "matches no address"),
        ("::ffff:192.0.2.7", r"write 192\.0\.2\.7/32"),
    ],
)
def test_an_operator_is_told_what_would_not_do_what_it_seems_to(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        check_from(text)


CLIENTS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda found: _known(str(found)))
PATTERNS = st.text(st.sampled_from('0123456789abcdefABCDEFxX.:/*?!,%-+ "\\\0\n\u0661'), max_size=60)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=100), PATTERNS), CLIENTS)
def test_whatever_is_written_there_it_never_raises_anything_else(text: str, client: Address) -> None:
    address(text)
    from_matches(text, client)
    for check in (check_patterns, check_from, lambda one: networks([one])):
        try:
            check(text)
        except UsageError:
            pass


@settings(max_examples=300, deadline=None)
@given(CLIENTS, st.integers(0, 128), CLIENTS)
def test_networks_and_from_agree(base: Address, bits: int, client: Address) -> None:
    network = ipaddress.ip_network((base, min(bits, base.max_prefixlen)), strict=False)
    inside = within(networks([str(network)]), client)
    if not str(network).startswith("::ffff:"):
        assert from_matches(str(network), client) is inside
        assert from_matches(f"!{network},*", client) is not inside
    assert from_matches(str(client), client)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("a:*?"), max_size=12), st.text(st.sampled_from("a:"), max_size=12))
def test_wildcards_are_those_of_a_plain_definition(pattern: str, text: str) -> None:
    def plain(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return plain(pattern[1:], text) or (bool(text) and plain(pattern, text[1:]))
        return bool(text) and pattern[0] in ("?", text[0]) and plain(pattern[1:], text[1:])

    assert addresses._wildcards_match(pattern, text) is plain(pattern, text)


def test_no_pattern_takes_long() -> None:
    began = time.monotonic()
    assert not from_matches("*a" * 500 + "b", _known("aaaa:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa"))
    assert time.monotonic() - began < 1
