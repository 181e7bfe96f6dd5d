"""FileZilla, as somebody uses it who has been given a file or a link: its windows are read and its keys pressed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.long.desktop import Desktop, desktop
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_sign_in import HIDE, Accounts
from tests.sshd.test_sign_in import PASSWORD as OPERATORS_PASSWORD
from tests.web.browsing import Client

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
WEB_PORT = 18024
GIB = 1 << 30
HEADER, ROW = 25, 19
"""Pixels of the header of a list, and of a row."""

WELCOME, IMPORT, IMPORTED = "Welcome to FileZilla", "Import settings", "Information"
UNKNOWN, SITES, PASSWORD = "Unknown host key", "Site Manager", "Enter password"
ALWAYS = "Always trust this host, add this key to the cache"

SHOTS = os.environ.get("HATCHWAY_TEST_SCREENSHOTS", "")
"""Directory into which those screenshots go that the documents have; none is made without."""


class Seat:
    """Somebody at a computer with FileZilla, and Hatchway at the other end."""

    def __init__(self, hatchway: Hatchway, volume: Path, screen: Desktop) -> None:
        self.hatchway = hatchway
        self.volume = volume
        self.screen = screen
        self.files = screen.home / "files"
        self.files.mkdir()
        self.program: subprocess.Popen[bytes] | None = None
        self.info: dict[str, Any] = hatchway.command("show", INSTANCE, "--secrets")

    @property
    def fingerprint(self) -> str:
        return str(self.info["host_keys"][0]["fingerprint"])

    def start(self, *arguments: str) -> None:
        """Start FileZilla for the first time, with the local files on the left."""
        # As many transfers at once as it has, which is in its settings' window, too.
        config = self.screen.home / ".config" / "filezilla"
        config.mkdir(parents=True)
        (config / "filezilla.xml").write_text(
            '<?xml version="1.0"?><FileZilla3><Settings><Setting name="Number of Transfers">10</Setting></Settings>'
            "</FileZilla3>"
        )
        self.program = self.screen.start("filezilla", f"--local={self.files}", *arguments)
        self.screen.press(WELCOME, "OK")

    def shot(self, window: str, name: str) -> None:
        """A screenshot for the documents."""
        if SHOTS:
            self.screen.screenshot(window, Path(SHOTS) / f"filezilla-{name}.png")

    def take_in(self, *options: str) -> None:
        """Have a file exported, and import it."""
        file = self.screen.home / "sites.xml"
        self.hatchway.command("export", "filezilla", INSTANCE, *options, "-o", str(file))
        self.main_window()
        self.screen.keys("alt+f", "i")
        self.screen.wait_for_window("Select file to import settings from")
        self.screen.type(str(file))
        time.sleep(1)
        self.screen.keys("Return")
        self.screen.wait_for_window(IMPORT)
        self.screen.press(IMPORT, "OK")
        assert "The selected categories have been imported." in self.screen.wait_for_window(IMPORTED)
        self.screen.press(IMPORTED, "OK")

    def main_window(self) -> None:
        """Wait until the main window is the only one."""
        wait_until(lambda: len(self.screen.windows()) == 1, "the main window alone is there", 30)

    def choose_site(self) -> None:
        """Open the site manager and choose the login."""
        self.screen.keys("ctrl+s")
        self.screen.wait_for_window(SITES)
        label = self.screen.wait_for("Select entry:", SITES)
        # The first row is "My Sites", then comes the environment, then the login.
        self.screen.click(label.x + 70, label.y + 28)
        self.screen.keys("Down", "Down")

    def trust(self) -> None:
        """Compare the fingerprint, and trust it: the only question that there is."""
        shown = self.screen.wait_for_window(UNKNOWN)
        assert self.fingerprint in shown
        assert f"{self.info['host']}:{self.info['port']}" in shown
        self.shot(UNKNOWN, "host-key")
        self.screen.press(UNKNOWN, ALWAYS)
        self.screen.press(UNKNOWN, "OK")

    def log(self) -> str:
        """FileZilla's message log."""
        return "\n".join(one.text for one in self.screen.shown() if one.text.startswith("Status:"))

    def wait_for_log(self, words: str, timeout_s: float = 60) -> None:
        wait_until(lambda: words in self.log(), f"{words!r} in the log:\n{self.screen.told()}", timeout_s)

    def listed(self) -> None:
        """It has listed the folder in which the session starts."""
        self.wait_for_log('Directory listing of "/home/work" successful')
        assert self.screen.windows() == {next(iter(self.screen.windows()))}, "it asks nothing else"

    def upload_all(self) -> None:
        """Choose all local files, and press the key that transfers them."""
        label = self.screen.wait_for("Local site:")
        # Below it on the left side are the tree, and then the list.
        pane = max(
            (one for one in self.screen.shown() if one.role == "scroll pane" and 0 <= one.x < label.x + label.width),
            key=lambda one: one.y if one.width < 700 else 0,
        )
        self.screen.click(pane.x + 60, pane.y + HEADER + ROW + ROW // 2)
        self.screen.keys("ctrl+a", "Return")


@pytest.fixture
def seat(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seat]:
    """With a password that is kept as the parameter says, raw without one."""
    with seated(tmp_path, password_kind=getattr(request, "param", "raw")) as made:
        yield made


@contextlib.contextmanager
def seated(directory: Path, **options: Any) -> Iterator[Seat]:
    """Somebody whose files are in `directory`, at a Hatchway with these options."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(running(**options))
        volume = made.add_volume("/home/work")
        (volume / "hello.txt").write_text("hello\n")
        made.write_instances()
        wait_until(lambda: made.told("ls")["instances"], "the instance is known")
        made.enable(INSTANCE)
        home = directory / "home"
        home.mkdir(mode=0o700)
        yield Seat(made, volume, stack.enter_context(desktop(home)))


def test_a_file_with_the_password(seat: Seat) -> None:
    """Imported; the login chosen; the host key compared; the files are there."""
    seat.start()
    seat.take_in("--secrets")
    seat.choose_site()
    seat.shot(SITES, "site-manager")
    comment = [one.text for one in seat.screen.shown() if one.window == SITES and seat.fingerprint in one.text]
    assert comment, seat.screen.told()
    seat.screen.press(SITES, "Connect")
    seat.trust()
    seat.listed()


def test_a_file_with_the_keys_place(seat: Seat) -> None:
    """No password is asked for."""
    keys = seat.screen.home / "my keys"
    keys.mkdir()
    seat.hatchway.command("key", "export", INSTANCE, "-o", str(keys / f"id_container-{LOGIN}"))
    seat.start()
    seat.take_in("--key-dir", str(keys))
    seat.choose_site()
    seat.screen.press(SITES, "Connect")
    seat.trust()
    seat.listed()
    assert "publickey" in str(seat.hatchway.command("sessions"))


@pytest.mark.parametrize("seat", ["argon2id"], indirect=True)
def test_a_file_that_asks(seat: Seat) -> None:
    password = seat.hatchway.command("password", "reset", INSTANCE)["password"]
    seat.start()
    seat.take_in()
    seat.choose_site()
    seat.screen.press(SITES, "Connect")
    seat.screen.wait_for_window(PASSWORD)
    seat.screen.type(password)
    seat.screen.press(PASSWORD, "OK")
    seat.trust()
    seat.listed()


def test_the_link_with_a_password(seat: Seat) -> None:
    """Files are listed with the question about the host key alone in between."""
    seat.start(seat.info["directions"]["url"])
    seat.trust()
    seat.listed()


def test_the_link_of_a_page(tmp_path: Path) -> None:
    """The address behind "Open in SFTP application", as the page has it, is all that FileZilla needs."""
    (tmp_path / "etc").mkdir()
    accounts = Accounts(tmp_path / "etc")
    within = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", HIDE, str(accounts.directory))
    with seated(tmp_path, web=f'enabled = true\nlisten = ["127.0.0.1:{WEB_PORT}"]', within=within) as seat:
        operator, dialog = Client(f"https://127.0.0.1:{WEB_PORT}"), "/instances/shop/web/1/connect"
        assert operator.sign_in("anna", OPERATORS_PASSWORD).status == 303
        shown = operator.send(operator.get(dialog).form(f"{dialog}/reveal"))
        # The first of them; another is WinSCP's.
        link = next(str(found["href"]) for tag, found in shown.read.tags if tag == "a" and "data-launch" in found)
        assert ":" in link.partition("@")[0].removeprefix("sftp://"), "it has the password"
        seat.start(link)
        seat.trust()
        seat.listed()


@pytest.mark.parametrize("seat", ["argon2id"], indirect=True)
def test_the_link_asks_where_the_password_is_a_hash(seat: Seat) -> None:
    password = seat.hatchway.command("password", "reset", INSTANCE)["password"]
    assert seat.info["password"] is None
    seat.start(seat.info["directions"]["url"])
    seat.screen.wait_for_window(PASSWORD)
    seat.screen.type(password)
    seat.screen.press(PASSWORD, "OK")
    seat.trust()
    seat.listed()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_ten_transfers_at_once(seat: Seat) -> None:
    """Each over a connection of its own, and one more to look around."""
    for number in range(60):
        (seat.files / f"file-{number:02}").write_bytes(os.urandom(8 << 20))
    seat.start(seat.info["directions"]["url"])
    seat.trust()
    seat.listed()
    seat.upload_all()
    most = 0

    def all_there() -> bool:
        nonlocal most
        most = max(most, seat.hatchway.sessions())
        return all((seat.volume / one.name).exists() and (seat.volume / one.name).stat().st_size == one.stat().st_size
                   for one in seat.files.iterdir())  # fmt: skip

    wait_until(all_there, "all files are there", 300)
    assert [one.name for one in seat.files.iterdir() if digest(one) != digest(seat.volume / one.name)] == []
    assert most >= 10


def test_five_gibibytes_cut_in_the_middle_and_resumed(seat: Seat) -> None:
    """The connection is cut before a half; FileZilla comes again by itself, and goes on where it was."""
    large = seat.files / "large.bin"
    block = os.urandom(64 << 20)
    with large.open("wb") as file:
        for number in range(5 * GIB // len(block)):
            file.write(number.to_bytes(8, "big"))
            file.write(block[8:])
    there = seat.volume / large.name
    seat.start(seat.info["directions"]["url"])
    seat.trust()
    seat.listed()
    seat.upload_all()
    wait_until(lambda: there.exists() and there.stat().st_size > 2 * GIB, "2 GiB are there", 600)
    seat.hatchway.command("kick", INSTANCE)
    seat.wait_for_log("File transfer failed after transferring ", 60)
    cut_at = int(re.findall(r"failed after transferring ([0-9]+) bytes", seat.log())[0])
    assert 2 * GIB < cut_at < 5 * GIB
    seat.wait_for_log("File transfer successful, transferred ", 600)
    rest = int(re.findall(r"successful, transferred ([0-9]+) bytes", seat.log())[0])
    assert rest <= 5 * GIB - cut_at, "it has begun anew"
    assert digest(there) == digest(large)
    ended = seat.hatchway.command("log", "--kind", "end")["entries"]
    (cut,) = [one["what"] for one in ended if 2 * GIB <= (one["written"] or 0) < 5 * GIB - rest + GIB][:1]
    assert "kicked by uid 0" in cut, ended
