"""What clients are told: where to connect, what stands in the way and what mends it, and the key in both formats."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from msgspec import structs
from tests.unit.core.stage import Stage, snapshot, staged, volume

from hatchway.config import Connect
from hatchway.errors import HostError, NotFoundError, UsageError
from hatchway.model import InstanceKey
from hatchway.sshd import hostkeys
from hatchway.wire.admin import ConnectionInfo, Disable, Enable, HostKey, Show, ShowServer
from hatchway.wire.entry import ExportKey, Hindrance, KeyForm

KEY = HostKey("ssh-ed25519", "SHA256:h", "ssh-ed25519 AAAA")
INSTANCE = "shop/web/1"


@pytest.fixture(autouse=True)
def _host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _directory: (KEY,))


def told(stage: Stage, **connect: str | int) -> None:
    """Have clients be told this."""
    stage.core.config = structs.replace(stage.core.config, connect=structs.replace(Connect(), **connect))


async def shown(stage: Stage) -> ConnectionInfo:
    found: ConnectionInfo = await stage.do(Show(instance=INSTANCE))
    return found


@pytest.mark.parametrize(
    ("connect", "expected"),
    [({"host": "sftp.example.org"}, ("sftp.example.org", 2022)), ({"host": "h", "port": 22022}, ("h", 22022))],
)
async def test_where_to_connect(tmp_path: Path, connect: dict[str, str | int], expected: tuple[str, int]) -> None:
    async with staged(tmp_path) as stage:
        told(stage, **connect)
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        info, server = await shown(stage), await stage.do(ShowServer())
        assert (info.host, info.port, info.host_keys) == (*expected, (KEY,))
        assert (server.host, server.port, server.host_keys) == (*expected, (KEY,))


@pytest.mark.parametrize("name", ["x\n ProxyCommand id\n#", "x\udcff", "a b", "-oProxyCommand=id", "", "x" * 300])
async def test_a_host_whose_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It would stand in files of clients, which run commands."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        for request in (ShowServer(), Show(instance=INSTANCE)):
            with pytest.raises(HostError, match=r"set connect\.host"):
                await stage.do(request)
        told(stage, host="sftp.example.org")
        assert (await stage.do(ShowServer())).host == "sftp.example.org"


async def problems(stage: Stage) -> tuple[Hindrance, ...]:
    return (await shown(stage)).problems


async def test_nothing_is_shared(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        assert await problems(stage) == ()
        await stage.do(Disable(instance=INSTANCE, every=True))
        text = "no volume is shared now: this login cannot enter"
        assert await problems(stage) == (Hindrance(text, "hatchway enable shop/web/1 --all"),)
        await stage.core.feed(snapshot(volume("/a b")))
        assert await problems(stage) == (Hindrance(text, "hatchway enable shop/web/1 '/a b'"),)
        await stage.core.feed(snapshot(volume("/tmp/x", refusal="it is a tmpfs")))
        assert await problems(stage) == (Hindrance(text),)


async def test_commands_name_what_they_are_about(tmp_path: Path) -> None:
    """Also where names look alike, or like options."""
    text = "no volume is shared now: this login cannot enter"
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.do(Disable(instance=INSTANCE, every=True))
        for path in ("/data\u200b", "/data\\u200b", "/a'\n\\b\x1b", "/\u3164", "/ä b"):
            await stage.core.feed(snapshot(volume(path)))
            (found,) = await problems(stage)
            assert found.text == text
            assert found.mend.isprintable()
            words = await trio.run_process(
                ["bash", "-c", f"printf '%s\\0' {found.mend}"], capture_stdout=True, env={"LANG": "C.UTF-8"}
            )
            assert words.stdout.decode().split("\0")[:-1] == ["hatchway", "enable", "shop/web/1", path]


async def test_a_project_that_is_called_like_an_option(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        key = InstanceKey("--all", "web", 1)
        await stage.core.feed(snapshot(volume("/data"), volume("/logs"), key=key))
        await stage.do(Enable(instance=str(key), volumes=("/data",)))
        await stage.do(Disable(instance=str(key), every=True))
        (found,) = (await stage.do(Show(instance=str(key)))).problems
        assert found.mend == "hatchway enable --all -- --all/web/1"


async def test_access_that_is_suspended(tmp_path: Path) -> None:
    none = Hindrance("no volume is shared now: this login cannot enter")
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        stage.host.born["/var/lib/docker/volumes/data/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data")))
        await stage.reconciler.reconcile()
        suspended = "access to /data is suspended"
        assert await problems(stage) == (
            none,
            Hindrance(
                f"{suspended}: another volume stands there now. Look whose that is, then confirm",
                "hatchway confirm shop/web/1 /data",
            ),
        )
        await stage.core.feed(snapshot(volume("/data", refusal="it is a tmpfs")))
        assert await problems(stage) == (
            none,
            Hindrance(f"{suspended}: what is there now cannot be shared: it is a tmpfs"),
        )
        await stage.core.feed(snapshot())
        # Nobody is told to take access away that comes back by itself.
        text = "access to /data is suspended: the instance does not have it now, and it comes back with it"
        assert await problems(stage) == (none, Hindrance(text))


async def test_what_is_the_hosts(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        stage.core.unpublished["shop-web-1"] = "the host has an account of that name"
        stage.host.problem = "hostd hung up"
        assert await problems(stage) == (
            Hindrance("nobody can enter as shop-web-1: the host has an account of that name"),
            Hindrance("nobody can enter now: hostd hung up", "hatchway doctor"),
        )


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
async def test_the_key_in_puttys_format(tmp_path: Path, passphrase: str | None) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        plain = await stage.do(ExportKey(INSTANCE))
        found = await stage.do(ExportKey(INSTANCE, KeyForm.PPK, passphrase))
        assert (found.login, found.public, found.fingerprint) == (plain.login, plain.public, plain.fingerprint)
        assert f"Encryption: {'none' if passphrase is None else 'aes256-cbc'}\nComment: shop-web-1\n" in found.private
        (tmp_path / "key").write_text(found.private)
        read = await trio.run_process(["puttygen", tmp_path / "key", "-O", "fingerprint"], capture_stdout=True)
        assert read.stdout.decode().split()[2] == found.fingerprint
        assert (passphrase or "correct horse") not in repr(found) + repr(ExportKey(INSTANCE, KeyForm.PPK, passphrase))


@pytest.mark.parametrize(
    ("form", "passphrase", "why"),
    [
        (KeyForm.OPENSSH, "correct horse", "ssh-keygen -p"),
        (KeyForm.PPK, "short", "8 to 255"),
        (KeyForm.PPK, "", "8 to"),
    ],
)
async def test_a_passphrase_that_cannot_be(tmp_path: Path, form: KeyForm, passphrase: str, why: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        with pytest.raises(UsageError, match=why):
            await stage.do(ExportKey(INSTANCE, form, passphrase))


async def test_a_server_without_host_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(directory: str) -> tuple[HostKey, ...]:
        raise HostError(f"host key {directory}/ssh_host_ed25519_key.pub: No such file or directory")

    async with staged(tmp_path) as stage:
        monkeypatch.setattr(hostkeys, "read", missing)
        with pytest.raises(HostError, match="No such file"):
            await stage.do(ShowServer())


async def test_access_that_was_never_given(tmp_path: Path) -> None:
    """What is to be typed then is quoted, too."""
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), key=InstanceKey("My Shop", "a b", 1)))
        with pytest.raises(NotFoundError) as caught:
            await stage.do(Show(instance="My Shop/a b/1"))
        assert str(caught.value).endswith("this does it: hatchway enable 'My Shop/a b/1' VOLUME")
