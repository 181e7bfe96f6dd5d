"""Containers whose owner has named project, service and volume to do harm: every export still works in its program."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.types
import pytest
from tests.sshd.computer import CLIENT, Computer
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.running import Hatchway, running, wait_until

pytestmark = pytest.mark.engine

NAMES = [
    "a b",
    "quotes ' \" `id`",
    "$(touch pwned)",
    "%h %% %2F",
    "a@b:c;d&e|f",
    "a\nHost *\n  ProxyCommand touch pwned\n[x]\ntype = local",
    "\u202ecod.exe \u200f",
    "</Server><Pass>x</Pass>]]>",
    "#\\=,*?[x]{y}~!",
    "\x1b]0;x\x07\x9b2J",
    "-oProxyCommand=touch",
    "x" * 200,
    "ü \N{PILE OF POO} 日本",
]


class Shop(Computer):
    """Hatchway, the containers, and the home directory of somebody who has been given all that is exported."""

    def __init__(self, hatchway: Hatchway, home: Path) -> None:
        super().__init__(home)
        self.hatchway = hatchway
        self.infos: list[dict[str, Any]] = []

    def exported(self, form: str) -> str:
        """Of all logins at once: none must spoil it for another."""
        return str(self.hatchway.command("export", form, "--all", "--key-dir", str(self.ssh))["text"])

    def nothing_has_happened(self) -> None:
        assert not list(self.home.rglob("pwned"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_engine(tmp_path_factory.mktemp("e") / "d") as url, client_of(url) as client:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with workshop(client) as made, running(engine_url=url, volume_root=root) as hatchway:
            for number, name in enumerate(NAMES):
                volume = made.volume(f"v{number}")
                made.container(
                    f"c{number}",
                    labels={
                        "com.docker.compose.project": name,
                        "com.docker.compose.service": name,
                        "com.docker.compose.container-number": "1",
                        "com.docker.compose.oneoff": "False",
                    },
                    mounts=[docker.types.Mount(target=f"/{name}", source=volume.name)],
                    start=False,
                )
            shop = Shop(hatchway, tmp_path_factory.mktemp("home"))
            wait_until(lambda: len(ours(shop, made.tag)) == len(NAMES), "the catalog sees all containers")
            hatchway.command("export", "known-hosts", "-o", str(shop.ssh / "known_hosts"))
            for runtime_name in ours(shop, made.tag):
                hatchway.command("enable", runtime_name, "--all")
                info = hatchway.command("show", runtime_name, "--secrets")
                shop.infos.append(info)
                key = shop.ssh / f"id_container-{info['login']}"
                hatchway.command("key", "export", runtime_name, "-o", str(key))
            yield shop


def ours(shop: Shop, tag: str) -> list[str]:
    found = [one["runtime_name"] for one in shop.hatchway.told("ls")["instances"]]
    return sorted(name for name in found if tag in name)


def starts(shop: Shop) -> dict[str, str]:
    """Where the sessions of each login start: in the volume, but for those that no home directory is called like."""
    found = {info["login"]: info["start_directory"] for info in shop.infos}
    assert len(found) == len(NAMES)
    assert sum(path != "/" for path in found.values()) >= len(NAMES) - 3
    return found


def top(shop: Shop, login: str) -> str:
    """The one name in the root of a login's session, as rclone lists it."""
    (volume,) = next(info["instance"]["volumes"] for info in shop.infos if info["login"] == login)
    return str(volume["session_path"]).strip("/") + "/"


def test_openssh(shop: Shop) -> None:
    config = shop.home / "config"
    config.write_text(shop.exported("ssh-config"))
    for login, path in starts(shop).items():
        known = ("-o", f"UserKnownHostsFile={shop.ssh}/known_hosts")
        write = "" if path == "/" else "put config mark\n"
        out = shop.run("sftp", "-F", config, *known, "-b", "-", login, given=f"pwd\n{write}ls -1\n").stdout
        assert path == "/" or "mark" in out.partition("ls -1")[2].split()
        # sftp(1) writes invisible characters as octal numbers.
        assert not path.isprintable() or f"Remote working directory: {path}\n" in out
    shop.nothing_has_happened()


def test_rclone(shop: Shop) -> None:
    config = shop.home / "rclone.conf"
    config.write_text(shop.exported("rclone"))
    rclone = ("rclone", "--config", config, "--retries", "1")
    assert sorted(shop.run(*rclone, "listremotes").stdout.split()) == sorted(f"{login}:" for login in starts(shop))
    (shop.home / "mark").write_text("mark\n")
    for login, path in starts(shop).items():
        if path != "/":
            shop.run(*rclone, "copy", "mark", f"{login}:")
        expected = "mark" if path != "/" else top(shop, login)
        assert expected in shop.run(*rclone, "lsf", f"{login}:").stdout
    shop.nothing_has_happened()


def test_the_link(shop: Shop) -> None:
    ssh = f"ssh -a -x -F none -o UserKnownHostsFile={shop.ssh}/known_hosts -o StrictHostKeyChecking=yes"
    for info in shop.infos:
        url = info["directions"]["url"]
        assert shop.run("curl", "-sS", url).stdout
        script = f'set sftp:connect-program "{ssh}"; set cmd:fail-exit true; open {url}; cls -1'
        assert shop.run("lftp", "-c", script).stdout
    shop.nothing_has_happened()


def test_what_show_prints_can_be_copied(shop: Shop) -> None:
    """Its commands, by a shell: access goes away, and comes back by the command that it says."""
    for info in shop.infos:
        done = shop.hatchway.cli("show", info["login"])
        assert all(line.isprintable() for line in done.stdout.split("\n"))
        assert all(shlex.split(info["directions"][one]) for one in ("sftp_with_key", "sftp_with_password"))
        shop.hatchway.command("disable", info["login"], "--all")
        (problem,) = shop.hatchway.command("show", info["login"])["problems"]
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {problem['mend']}"],
            env=CLIENT, cwd=shop.home, capture_output=True, text=True, check=True,
        ).stdout.split("\0")[1:-1]  # fmt: skip
        shop.hatchway.command(*words)
        assert shop.hatchway.command("show", info["login"])["problems"] == []
    shop.nothing_has_happened()
