"""Every kind of mount a container can have, over SFTP: what is shared, and what is refused and why."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import Mount
from tests.sshd.bench import Bench, benched
from tests.sshd.running import wait_until
from tests.sshd.test_lifecycle import restart

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("e") / "d") as made:
        yield made


def bind(target: str, source: Path, **options: Any) -> Mount:
    return Mount(target, str(source), type="bind", **options)


def test_a_bind_mount_beneath_a_prefix(bench: Bench, tmp_path: Path) -> None:
    site = bench.directory("site")
    os.chown(site, 1000, 1000)
    (site / "index.html").write_text("hello")
    instance = bench.container("bind", bind("/var/www", site))
    login = bench.hatchway.enable(instance, "/var/www")
    (tmp_path / "new").write_text("from the user")
    out = bench.hatchway.sftp(login, f"pwd\nls\nput {tmp_path}/new\n").stdout
    assert "/var/www" in out
    assert "index.html" in out
    assert (site / "new").read_text() == "from the user"
    assert ((site / "new").stat().st_uid, (site / "new").stat().st_gid) == (1000, 1000)


def test_a_bind_mount_that_the_container_has_read_only(bench: Bench, tmp_path: Path) -> None:
    site = bench.directory("fixed")
    instance = bench.container("fixed", bind("/site", site, read_only=True))
    login = bench.hatchway.enable(instance, "/site")
    (tmp_path / "new").write_text("x")
    out = bench.hatchway.sftp(login, f"-put {tmp_path}/new\n")
    assert "Permission denied" in out.stdout + out.stderr
    assert list(site.iterdir()) == []


def test_bind_mounts_that_are_refused_say_why(bench: Bench, tmp_path: Path) -> None:
    file = bench.binds / "single-file"
    file.write_text("secret")
    (bench.binds / "link").symlink_to("/etc")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(bench.binds / "docker.sock"))
    listening.close()
    instance = bench.container(
        "refused",
        bind("/outside", tmp_path),
        bind("/host", Path("/usr")),
        bind("/file", file),
        bind("/link", bench.binds / "link"),
        bind("/sock", bench.binds / "docker.sock"),
        Mount("/tmp", None, type="tmpfs"),
    )
    expected = {
        "/outside": "lies beneath none of host.volume_roots and host.bind_prefixes",
        "/host": "lies beneath none of",
        "/file": "is no directory",
        "/sock": "never shared",
        "/tmp": "no contents",
    }
    for path, words in expected.items():
        assert words in bench.volume(instance, path)["refusal"], path
        done = bench.hatchway.cli("enable", instance, path)
        assert done.returncode != 0
        assert words in " ".join(done.stderr.split())
    # The engine resolves a link itself and reports what it was given: the path is walked by us, without links.
    assert "symlink" in bench.volume(instance, "/link")["refusal"]
    done = bench.hatchway.cli("enable", instance, "--all")
    assert done.returncode != 0


def test_a_bind_mount_swapped_for_a_link_after_enable_shows_nothing(bench: Bench) -> None:
    site = bench.directory("swapped")
    instance = bench.container("swapped", bind("/site", site))
    login = bench.hatchway.enable(instance, "/site")
    assert bench.hatchway.sftp(login, "ls\nquit\n").returncode == 0
    bench.hatchway.command("disable", instance, "--all")
    bench.hatchway.enable(instance, "/site")
    site.rename(bench.binds / "elsewhere")
    site.symlink_to("/etc")
    try:
        done = bench.hatchway.sftp(login, "ls\n", check=False)
        assert done.returncode == 255
        assert "passwd" not in done.stdout
    finally:
        site.unlink()
        (bench.binds / "elsewhere").rename(site)
    assert bench.hatchway.sftp(login, "ls\n").returncode == 0


def test_another_directory_at_a_bind_mounts_path_is_not_handed_over(bench: Bench) -> None:
    site = bench.directory("renewed")
    instance = bench.container("renewed", bind("/site", site))
    login = bench.hatchway.enable(instance, "/site")
    site.rename(bench.binds / "old")
    bench.directory("renewed")
    (site / "of-somebody-else").touch()
    done = bench.hatchway.sftp(login, "ls\n", check=False)
    assert done.returncode == 255
    assert "of-somebody-else" not in done.stdout


def test_a_subpath_of_a_volume(bench: Bench) -> None:
    api = tuple(int(part) for part in bench.shop.client.version()["ApiVersion"].split("."))
    if api < (1, 45):
        pytest.skip(f"volume-subpath needs Engine 26.0, API 1.45; this one has {api}")
    volume = bench.shop.volume("tree")
    inside = Path(f"{bench.shop.client.info()['DockerRootDir']}/volumes/{volume.name}/_data")
    (inside / "in" / "side").mkdir(parents=True)
    (inside / "in" / "side" / "mine").touch()
    (inside / "not-mine").touch()
    instance = bench.container("subpath", Mount("/data", volume.name, subpath="in/side"))
    login = bench.hatchway.enable(instance, "/data")
    out = bench.hatchway.sftp(login, "ls /data\nls /data/..\n").stdout
    assert "mine" in out
    assert "not-mine" not in out
    # Whoever has the whole volume swaps the directory for a link.
    bench.hatchway.command("disable", instance, "--all")
    bench.hatchway.enable(instance, "/data")
    (inside / "in").rename(inside / "kept")
    (inside / "in").symlink_to("/")
    assert bench.hatchway.sftp(login, "ls\n", check=False).returncode == 255


def test_one_volume_in_several_instances(bench: Bench, tmp_path: Path) -> None:
    assert isinstance(bench.shop.client, docker.DockerClient)
    volume = bench.shop.volume("both")
    logins = [
        bench.hatchway.enable(bench.container(name, Mount(path, volume.name)), path)
        for name, path in (("first", "/data"), ("second", "/srv/same"))
    ]
    (tmp_path / "file").write_text("seen by both")
    bench.hatchway.sftp(logins[0], f"put {tmp_path}/file\n")
    bench.hatchway.sftp(logins[1], f"get file {tmp_path}/back\nrm file\n")
    assert (tmp_path / "back").read_text() == "seen by both"
    assert "file" not in bench.hatchway.sftp(logins[0], "ls -1\n").stdout.splitlines()


def nested(bench: Bench, name: str) -> tuple[str, Path, Path]:
    """A stopped container with a volume inside another one; its instance, and both directories of the host."""
    outer, inner = bench.directory(f"{name}-outer"), bench.directory(f"{name}-inner")
    instance = bench.container(name, bind("/data", outer), bind("/data/deep/sub", inner))
    return instance, outer, inner


def swap_for_link(outer: Path) -> None:
    (outer / "deep").symlink_to("/etc")


def swap_for_link_below(outer: Path) -> None:
    (outer / "deep").mkdir()
    (outer / "deep" / "sub").symlink_to("/etc")


def swap_for_file(outer: Path) -> None:
    (outer / "deep").write_text("a file")


def leave_missing(_outer: Path) -> None:
    pass


def make_both(outer: Path) -> None:
    (outer / "deep" / "sub").mkdir(parents=True)
    (outer / "deep" / "sub" / "hidden").touch()


@pytest.mark.parametrize("prepare", [leave_missing, make_both, swap_for_link, swap_for_link_below, swap_for_file])
def test_a_volume_in_another_stands_there_whatever_the_container_made_of_it(
    bench: Bench, tmp_path: Path, prepare: Callable[[Path], None]
) -> None:
    instance, outer, inner = nested(bench, prepare.__name__)
    prepare(outer)
    (outer / "of-outer").touch()
    (inner / "of-inner").touch()
    (tmp_path / "new").write_text("x")
    login = bench.hatchway.enable(instance, "/data", "/data/deep/sub")
    before = sorted(os.listdir("/etc"))
    out = bench.hatchway.sftp(
        login,
        f"pwd\nls -1 /data\nls -1 /data/deep\nls -1 /data/deep/sub\nput {tmp_path}/new /data/deep/sub/new\n"
        f"cd /data/deep/sub\nls -1 ../../../..\n-rm /data/deep\n-rmdir /data/deep/sub\n-rename /data/deep /data/x\n"
        "-rename /data/deep/sub /data/x\n-symlink /etc /data/deep/sub\n",
    ).stdout
    assert "Remote working directory: /data\n" in out
    assert "of-outer" in out
    assert "/data/deep/sub/of-inner" in out
    assert "hidden" not in out
    assert "passwd" not in out
    assert (inner / "new").read_text() == "x"
    assert sorted(os.listdir("/etc")) == before
    # While somebody is in, the container swaps what is there for a link. The volume stays where it is.
    wait_until(lambda: bench.hatchway.sessions() == 0, "the session before is over")
    with bench.hatchway.open_sftp(login) as session:
        assert session.stdin is not None
        session.stdin.write("ls -1 /data/deep/sub\n")
        session.stdin.flush()
        wait_until(lambda: bench.hatchway.sessions() >= 1, "a session")
        if (outer / "deep").is_symlink() or (outer / "deep").is_file():
            (outer / "deep").unlink()
        elif (outer / "deep").exists():
            (outer / "deep").rename(outer / "moved")
        (outer / "deep").symlink_to("/etc")
        time.sleep(1.5)
        output, _ = session.communicate(f"put {tmp_path}/new /data/deep/sub/later\nls -1 /data/deep/sub\nbye\n")
        assert session.returncode == 0, output
    assert (inner / "later").read_text() == "x"
    assert sorted(os.listdir("/etc")) == before


def test_the_inner_volume_alone_and_the_outer_alone(bench: Bench) -> None:
    instance, outer, inner = nested(bench, "alone")
    (outer / "of-outer").touch()
    (inner / "of-inner").touch()
    login = bench.hatchway.enable(instance, "/data/deep/sub")
    out = bench.hatchway.sftp(login, "pwd\nls -1\nls -1 /data\n").stdout
    assert "/data/deep/sub" in out
    assert "of-inner" in out
    assert "of-outer" not in out
    bench.hatchway.enable(instance, "/data")
    assert "of-outer" in bench.hatchway.sftp(login, "ls -1 /data\n").stdout
    bench.hatchway.command("disable", instance, "/data/deep/sub")
    out = bench.hatchway.sftp(login, "ls -1 /data\n-ls -1 /data/deep/sub\n").stdout
    assert "of-outer" in out
    assert "of-inner" not in out


def test_an_inner_volume_taken_away_takes_nothing_else(bench: Bench) -> None:
    instance, outer, inner = nested(bench, "taken")
    (outer / "of-outer").touch()
    (inner / "of-inner").touch()
    login = bench.hatchway.enable(instance, "/data", "/data/deep/sub")
    session = bench.hatchway.open_sftp(login)
    wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
    trouble = bench.hatchway.log().count("not unmounted in peace")
    bench.hatchway.command("disable", instance, "/data/deep/sub")
    session.communicate("ls\nbye\n", timeout=30)
    assert session.returncode != 0
    assert bench.hatchway.log().count("not unmounted in peace") == trouble
    assert "of-outer" in bench.hatchway.sftp(login, "ls -1 /data\n").stdout
    bench.hatchway.command("disable", instance, "--all")
    assert bench.mounted(login) == []
    assert bench.hatchway.log().count("not unmounted in peace") == trouble


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_workers_hangs_or_dies(bench: Bench, which: int) -> None:
    """The outer's (0) or the inner's (1): revocation works, and the next login sees both again."""
    instance, outer, inner = nested(bench, f"hangs{which}")
    (outer / "of-outer").touch()
    (inner / "of-inner").touch()
    login = bench.hatchway.enable(instance, "/data", "/data/deep/sub")
    for how in (signal.SIGSTOP, signal.SIGKILL):
        session = bench.hatchway.open_sftp(login)
        wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
        lines = re.findall(rf"event=mounted login={login} .*worker=(\d+)", bench.hatchway.log())
        os.kill(int(lines[-2:][which]), how)
        bench.hatchway.command("disable", instance, "--all")
        session.communicate("ls\nbye\n", timeout=30)
        assert session.returncode != 0
        wait_until(lambda: bench.mounted(login) == [], "unmounted")
        bench.hatchway.enable(instance, "/data", "/data/deep/sub")
        out = bench.hatchway.sftp(login, "ls -1 /data\nls -1 /data/deep/sub\n").stdout
        assert "of-outer" in out
        assert "of-inner" in out


def test_nested_volumes_are_taken_over_by_the_next_hostd(bench: Bench) -> None:
    instance, _outer, inner = nested(bench, "next")
    (inner / "of-inner").touch()
    login = bench.hatchway.enable(instance, "/data", "/data/deep/sub")
    session = bench.hatchway.open_sftp(login)
    wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
    restart(bench.hatchway)
    output, _ = session.communicate("ls -1 /data/deep/sub\nbye\n", timeout=30)
    assert session.returncode == 0
    assert "of-inner" in output
    bench.hatchway.command("disable", instance, "--all")
