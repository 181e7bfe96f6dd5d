"""Access files: read whole, or refused with the file, the rule and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway import rulefiles
from hatchway.errors import ConfigError
from hatchway.model import NO_LIMITS, AccessRule, Limits, Ownership

GOOD = """
[[access]]
project = "shop"
service = "web*"
volumes = ["/data", "up?"]

[[access]]
project = "*"
service = "*"
replica = 2
volumes = ["*"]
read_only = true
follow = true
owner = "container"
umask = "002"
size = "20GB"
files = 100000
"""

ANY = "[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\n"


def test_the_rules_of_a_file() -> None:
    first, second = rulefiles.parse(GOOD, "/etc/x.toml")
    assert first == AccessRule(where="/etc/x.toml, rule 1", project="shop", service="web*", volumes=("/data", "up?"))
    assert (second.where, second.replica, second.read_only, second.follow) == ("/etc/x.toml, rule 2", 2, True, True)
    assert (first.ownership, second.ownership) == (Ownership(), Ownership("container", 0o002))
    assert (first.limits, second.limits) == (NO_LIMITS, Limits(20_000_000_000, 100_000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[access]", "x.toml"),
        (
            "[[acces]]\nproject = 'a'",
            r"x.toml: unknown key 'acces'. A file holds rules, each beginning with \[\[access\]\]",
        ),
        ("[access]\nproject = 'a'", r"x.toml: each rule begins with \[\[access\]\], in two brackets"),
        ("access = ['a']", "x.toml, rule 1: the file must be a table"),
        ("[[access]]\nservice = 'web'\nvolumes = ['*']", "x.toml, rule 1: project is missing"),
        ("[[access]]\nproject = 'a'\nservice = 'b'", "x.toml, rule 1: volumes is missing"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = '*'", "volumes = '\\*' is not allowed"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = []", "rule 1: volumes = "),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['']", "rule 1: volumes = "),
        ("[[access]]\nproject = ''\nservice = 'b'\nvolumes = ['*']", "rule 1: project = ''"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\nreplica = 0", "rule 1: replica = 0"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\nowner = 'app'", "rule 1: owner 'app'"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\numask = '22'", "rule 1: umask '22'"),
        (f"{ANY}size = '20XB'", "rule 1: size '20XB' is not allowed: expected 1M to 1024T"),
        (f"{ANY}size = '1kB'", "rule 1: size '1kB' is not allowed"),
        (f"{ANY}size = 1000000", "rule 1: size = 1000000 is not allowed: expected a text in quotes"),
        (f"{ANY}files = 0", "rule 1: files 0 is not allowed: expected a number from 1 to 1099511627776"),
        (f"{ANY}files = '9'", "rule 1: files = '9' is not allowed: expected a whole number"),
        (f"{ANY}files = true", "rule 1: files = True is not allowed: expected a whole number"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\nreadonly = true", "did you mean 'read_only'"),
        ("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\nread_only = 'yes'", "expected true or false"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rulefiles.parse(text, "x.toml")


def test_a_directory_is_read_in_the_order_of_names_and_only_its_toml_files(tmp_path: Path) -> None:
    for name in ("20-b.toml", "10-a.toml", ".hidden.toml", "notes.txt", "30.toml~"):
        (tmp_path / name).write_text(GOOD)
    rules = rulefiles.read(str(tmp_path))
    assert [Path(rule.where.partition(",")[0]).name for rule in rules] == ["10-a.toml"] * 2 + ["20-b.toml"] * 2


def test_one_bad_file_spoils_all(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"b\.toml"):
        rulefiles.read(str(tmp_path))


def test_no_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    assert rulefiles.read(str(tmp_path)) == ()
    with pytest.raises(ConfigError, match="there is none"):
        rulefiles.read(str(tmp_path / "none"))


def test_a_file_name_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\n.toml").write_text(GOOD)
    with pytest.raises(ConfigError, match="printable"):
        rulefiles.read(str(tmp_path))
