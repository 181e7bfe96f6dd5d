"""Everything the command line and the configuration offer is documented, and as it really is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from msgspec.structs import fields

from hatchway import config as configuration
from hatchway.cli.guard import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED
from hatchway.cli.main import cli
from hatchway.config import Config, Ids, Paths
from hatchway.errors import BY_CODE

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "cli.md").read_text()
EXAMPLE = (ROOT / "hatchway.toml.example").read_text()


def commands(group: click.Group, path: str = "hatchway") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(commands(cli)), ids=lambda value: str(value))
def test_every_command_and_option(path: str, command: click.Command) -> None:
    found = re.search(rf"^### `{re.escape(path)}\b[^\n]*`\n(.*?)(?=^##|\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no heading for {path}"
    heading, text = found[0].splitlines()[0], found[1]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert parameter.make_metavar(click.Context(command)) in heading
        elif "--json" not in parameter.opts:
            for option in parameter.opts:
                assert re.search(rf"`{option}( [A-Z]+)?`", text), f"{path} {option}"


def documented() -> dict[str, str]:
    """What docs/cli.md says beneath the heading of each command."""
    found = re.findall(r"^### `(hatchway [a-z -]+[a-z])\b[^\n]*`\n(.*?)(?=^##|\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert len(found) == len(dict(found)), "a command has two headings"
    return dict(found)


def test_no_other_command() -> None:
    assert set(documented()) == {path for path, _ in commands(cli)}


@pytest.mark.parametrize(("path", "command"), list(commands(cli)), ids=lambda value: str(value))
def test_no_other_option(path: str, command: click.Command) -> None:
    rows = re.findall(r"^\| (`-.*?) \|", documented()[path], re.MULTILINE)
    named = {option for row in rows for option in re.findall(r"`(--?[a-z][a-z-]*)", row)}
    assert named <= {option for parameter in command.params for option in parameter.opts}


def options_of(*more: click.Command) -> set[str]:
    return {option for command in (cli, *more) for parameter in command.params for option in parameter.opts}


def test_the_text_names_no_option_that_is_none() -> None:
    every = options_of(*(command for _, command in commands(cli)))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCS):
        assert option in {*every, "--help"}, option


def test_a_command_that_is_none_is_found() -> None:
    assert resolve(["key", "add", "shop/web/1"]).name == "add"
    with pytest.raises(AssertionError, match="enabel"):
        resolve(["--json", "enabel", "shop/web/1"])
    with pytest.raises(AssertionError, match="ad"):
        resolve(["key", "ad"])


TEXTS = [
    path.relative_to(ROOT)
    for path in (
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "hatchway.toml.example",
        *(ROOT / "src" / "hatchway").rglob("*.py"),
    )
]


def resolve(words: list[str]) -> click.Command:
    """The command that `words` begin with, behind "hatchway"."""
    command: click.Command = cli
    words = [word for word in words if not word.startswith("-")]
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    return command


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_commands_named_anywhere_exist(path: Path) -> None:
    # In code, in quotes, or behind a prompt.
    text = (ROOT / path).read_text()
    found = re.findall(r"""(?:`|'|^\$ (?:sudo )?)hatchway ([^`'\n#]*)""", text, re.MULTILINE)
    for words in map(str.split, found):
        command = resolve(words)
        for word in words:
            if option := re.fullmatch(r"\[?(--[a-z][a-z-]*|-[a-z])\]?[.,]?", word):
                assert option[1] in {*options_of(command), "-h", "--help"}, f"hatchway {' '.join(words)}"


def test_every_command_takes_json() -> None:
    for path, command in commands(cli):
        assert any("--json" in parameter.opts for parameter in command.params), path


def test_the_options_of_the_group() -> None:
    for parameter in cli.params:
        for option in parameter.opts:
            assert re.search(rf"`{option}( PATH)?`", DOCS), option


def test_every_exit_status() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (?:`([a-z-]+)` )?\|", DOCS, re.MULTILINE))
    documented = {int(status): code for status, code in rows.items()}
    assert documented == {
        0: "",
        **{cls.exit_code: code for code, cls in BY_CODE.items()},
        EXIT_INTERRUPTED: "",
        EXIT_BROKEN_PIPE: "",
    }


def test_the_example_parses_and_changes_nothing() -> None:
    assert configuration.parse(EXAMPLE) == Config()


def sections() -> dict[str, str]:
    """What the example says beneath each [section]."""
    return dict(re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", EXAMPLE, re.MULTILINE | re.DOTALL))


def test_the_example_has_every_key_with_its_default() -> None:
    prefix = Config().paths.libexec_dir.removesuffix("/libexec/hatchway")
    text = re.sub(r"^#(\w+ = )", r"\1", EXAMPLE, flags=re.MULTILINE).replace("{prefix}", prefix)
    assert configuration.parse(text) == Config()
    assert list(sections()) == [section.name for section in msgspec.structs.fields(Config)]
    for section in msgspec.structs.fields(Config):
        part = sections()[section.name]
        keys = [field.name for field in msgspec.structs.fields(section.type)]
        assert re.findall(r"^#(\w+) = ", part, re.MULTILINE) == keys
        for key in keys:
            assert re.search(rf"^# .*\n#{key} = ", part, re.MULTILINE), f"{section.name}.{key} has no comment"


def takes_effect(comment: str) -> str | None:
    """What a comment says of when a change takes effect."""
    found = re.search(r"^# Takes effect: (.+?)[,.]?(?: |$)", comment, re.MULTILINE)
    return None if found is None else found[1]


def test_the_example_says_when_each_key_takes_effect() -> None:
    for name, part in sections().items():
        introduction, *_ = part.partition("\n\n")
        usual = takes_effect(introduction)
        assert usual in ("restart", "stop", "see"), f"[{name}] does not say when a change takes effect"
        for comment, key in re.findall(r"((?:^# .*\n)+)#(\w+) = ", part, re.MULTILINE):
            own = takes_effect(comment)
            assert own in (None, "restart", "stop", "the"), f"{name}.{key}"
            assert own or usual != "see", f"{name}.{key} does not say when a change takes effect"


def test_only_these_keys_need_hatchway_to_be_stopped() -> None:
    # They are what tells a daemon that starts what the earlier one has left: sockets, mounts, processes, records.
    stopped = set()
    for name, part in sections().items():
        usual = takes_effect(part.partition("\n\n")[0])
        for comment, key in re.findall(r"((?:^# .*\n)+)#(\w+) = ", part, re.MULTILINE):
            if (takes_effect(comment) or usual) == "stop":
                stopped.add(f"{name}.{key}")
    expected = {f"{name}.{key.name}" for name, cls in (("paths", Paths), ("ids", Ids)) for key in fields(cls)}
    assert stopped == {*expected, "sshd.pam_service"}


def test_where_the_package_has_the_login_helpers_stands_in_the_example() -> None:
    assert configuration.default_libexec_dir(configuration.PACKAGE_PREFIX) in sections()["paths"]
