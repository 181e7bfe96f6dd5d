"""What a shell is offered: instances and volumes of the running daemon, fast or not at all, and nothing it expands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.shell_completion import BashComplete
from hypothesis import given
from hypothesis import strategies as st

from hatchway.cli import complete
from hatchway.cli.app import App
from hatchway.cli.main import cli
from hatchway.errors import HostError
from hatchway.model import InstanceKey
from hatchway.wire.admin import Access, Listing, ListInstances

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

ROOT = Path(__file__).parents[3]


@pytest.fixture
def listing(daemon: FakeDaemon, make: Any) -> Listing:
    """What the daemon answers: one instance that is shared, and one that is not."""
    answer = Listing(
        instances=(
            make.instance(
                make.volume("/home/work", Access.READ_WRITE),
                make.volume("/var/lib/db", name="db"),
                make.volume("/srv/bind", name="", refusal="not beneath host.bind_prefixes"),
                login="shop-web-1",
                runtime_name="container-1",
            ),
            make.instance(key=InstanceKey("shop", "db", 1), runtime_name="shop-db-1"),
        ),
        sources=(),
    )
    daemon.answers[ListInstances] = answer
    return answer


def offered(run: Cli, *words: str) -> list[str]:
    """What is offered in place of the last of `words`."""
    asked = BashComplete(cli, {"obj": App()}, "hatchway", complete.VARIABLE)
    *before, incomplete = words
    return [one.value for one in asked.get_completions(["--config", str(run.config), *before], incomplete)]


def test_instances(run: Cli, listing: Listing) -> None:
    assert offered(run, "enable", "") == ["shop/db/1", "shop/web/1"]
    assert offered(run, "enable", "shop/w") == ["shop/web/1"]
    # By login and name, where no key begins so.
    assert offered(run, "enable", "shop-") == ["shop-db-1", "shop-web-1"]
    assert offered(run, "enable", "other") == []
    # What has no login yet is of use to `enable` only.
    for command in ("show", "lock", "unlock", "forget", "kick", "sessions", "log", "disable", "confirm"):
        assert offered(run, command, "") == ["shop/web/1"], command
    for group in ("key", "password", "access"):
        for command in cli.commands[group].commands:  # type: ignore[attr-defined]
            assert offered(run, group, command, "") == ["shop/web/1"], f"{group} {command}"


def test_volumes(run: Cli, listing: Listing) -> None:
    assert offered(run, "enable", "shop/web/1", "") == ["/home/work", "/var/lib/db"]
    assert offered(run, "enable", "shop-web-1", "/var") == ["/var/lib/db"]
    assert offered(run, "enable", "--read-only", "container-1", "d") == ["db"]
    assert offered(run, "enable", "shop/web/1", "/home/work", "") == ["/var/lib/db"]
    assert offered(run, "disable", "shop/web/1", "") == ["/home/work"]
    assert offered(run, "key", "deliver", "shop/web/1", "") == ["/home/work"]
    assert offered(run, "enable", "shop/other/1", "") == []


def test_options_do_not_ask_the_daemon(run: Cli, daemon: FakeDaemon) -> None:
    assert "--read-only" in offered(run, "enable", "--")
    assert "enable" in offered(run, "")
    assert daemon.requests == []


def test_nothing_without_a_daemon(run: Cli, tmp_path: Path) -> None:
    assert offered(run, "enable", "") == []
    run.config.write_text("[sshd]\nport = 22\n")
    assert offered(run, "enable", "") == []
    run.config.unlink()
    assert offered(run, "enable", "") == []


def test_nothing_when_the_daemon_refuses(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListInstances] = HostError("no")
    assert offered(run, "enable", "") == []
    daemon.answers[ListInstances] = b"\0\0\0\x03abc"
    assert offered(run, "enable", "") == []


def test_nobody_waits_for_a_daemon_that_hangs(run: Cli, daemon: FakeDaemon) -> None:
    done = threading.Event()

    def hang(_request: object) -> bytes:
        done.wait(60)
        return b""

    daemon.answers[ListInstances] = hang
    before = time.monotonic()
    assert offered(run, "enable", "") == []
    assert time.monotonic() - before < complete.TIMEOUT_S + 2
    done.set()


HEEDED = "$(reboot)", "`reboot`", "a;b", "a b", "a\nb", "-rf", "~", "a*", "a|b", "a:b", "a=b", "a,b", "é", "a\\b", "a'b"


@pytest.mark.parametrize("name", HEEDED)
def test_what_a_shell_would_heed_is_not_offered(run: Cli, daemon: FakeDaemon, make: Any, name: str) -> None:
    shared = make.instance(
        make.volume(name, Access.READ_WRITE, name=name),
        make.volume("/data", Access.READ_WRITE),
        key=InstanceKey(name, "web", 1),
        runtime_name=name,
        login="shop-web-1",
    )
    daemon.answers[ListInstances] = Listing(instances=(shared,), sources=())
    assert offered(run, "enable", "") == ["shop-web-1"]
    assert name not in offered(run, "enable", name[:1])
    assert offered(run, "enable", "shop-web-1", "") == ["/data"]


@given(st.text("ab/.-_+%,~$;*?[]{}()<>&|!#^'\"\\ \né", max_size=8))
def test_only_words_are_offered(name: str) -> None:
    for one in complete._offered([name], ""):
        done = subprocess.run(["/bin/sh", "-c", f"printf %s {one.value}"], capture_output=True, text=True, check=True)
        assert done.stdout == name


def test_the_version_is_not_printed_amid_a_command_line(run: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert "enable" in offered(run, "--version", "")
    assert capsys.readouterr().out == ""


# --- the shells ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What packaging/completions makes."""
    found: Path = tmp_path_factory.mktemp("completions")
    subprocess.run(
        [sys.executable, str(ROOT / "packaging" / "completions"), str(found)],
        check=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")},
    )
    return found


@pytest.fixture
def program(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which shells find `hatchway`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    file = directory / "hatchway"
    file.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT / 'src'}' exec '{sys.executable}' -m hatchway.cli.main \"$@\"\n")
    file.chmod(0o755)
    yield {"PATH": f"{directory}:{os.environ['PATH']}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


def test_each_shell_finds_its_own(scripts: Path) -> None:
    assert sorted(str(path.relative_to(scripts)) for path in scripts.rglob("*") if path.is_file()) == [
        "bash/hatchway",
        "fish/hatchway.fish",
        "zsh/_hatchway",
    ]
    assert (scripts / "zsh" / "_hatchway").read_text().startswith("#compdef hatchway\n")
    for path in scripts.rglob("*"):
        assert path.is_dir() or f"{complete.VARIABLE}={path.parent.name}_complete" in path.read_text()


def bash(script: Path, environment: dict[str, str], *words: str) -> list[str]:
    """What bash offers in place of the last of `words`."""
    line = " ".join(f"'{word}'" for word in words)
    asked = (
        f"source {script}; complete -p hatchway >&2; COMP_WORDS=({line}); COMP_CWORD=$(({len(words)} - 1)); "
        'COMPREPLY=(); _hatchway_completion hatchway; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    assert done.stderr == "complete -o nosort -F _hatchway_completion hatchway\n"
    return done.stdout.split()


def test_bash(scripts: Path, program: dict[str, str], run: Cli, listing: Listing) -> None:
    script = scripts / "bash" / "hatchway"
    assert bash(script, program, "hatchway", "pass") == ["password"]
    assert bash(script, program, "hatchway", "password", "r") == ["remove", "reset"]
    assert bash(script, program, "hatchway", "enable", "--read") == ["--read-only"]
    named = ("hatchway", "--config", str(run.config), "enable")
    assert bash(script, program, *named, "shop/w") == ["shop/web/1"]
    assert bash(script, program, *named, "shop/web/1", "/h") == ["/home/work"]
    # Without a daemon, and whatever is wrong: nothing, and nothing on standard error either.
    assert bash(script, program, "hatchway", "--config", "/none", "enable", "") == []
    assert "enable" in bash(script, program, "hatchway", "nothing", "")


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_hatchway"), ("fish", "hatchway.fish")])
def test_other_shells_can_read_theirs(scripts: Path, shell: str, name: str) -> None:
    path = shutil.which(shell)
    if path is None:
        (pytest.fail if os.environ.get("HATCHWAY_REQUIRE_ALL") == "1" else pytest.skip)(f"{shell} is not installed")
    subprocess.run([path, "-n", str(scripts / shell / name)], check=True, timeout=60)


def test_an_unknown_shell_is_told_nothing(program: dict[str, str]) -> None:
    for asked in ("tcsh_complete", "bash_nothing", "bash_complete", ""):
        done = subprocess.run(
            ["hatchway"],
            capture_output=True,
            text=True,
            check=False,
            env={**program, complete.VARIABLE: asked},
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, "", ""), asked


def test_every_instance_and_volume_is_completed() -> None:
    def walk(group: Any) -> Iterator[Any]:
        for command in group.commands.values():
            yield from walk(command) if hasattr(command, "commands") else [command]

    for command in walk(cli):
        for parameter in command.params:
            if re.fullmatch("instance|volumes?", parameter.name):
                expected = complete.instances if parameter.name == "instance" else complete.volumes
                assert parameter._custom_shell_complete is expected, command.name
