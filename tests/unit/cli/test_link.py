"""`hatchway link`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hatchway.errors import ConflictError
from hatchway.model import InstanceKey
from hatchway.wire.links import LinkMade, MakeLink, ShareLink

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

LINK = ShareLink(
    name="f4982d8e",
    key=InstanceKey("shop", "web", 1),
    login="shop-web-1",
    note="for Berta",
    made_at=0.0,
    made_by="root",
    expires_at=4_000_000_000.0,
    uses_max=1,
    uses=0,
    passphrase=False,
)


def test_it_is_shown_as_others_open_it(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[MakeLink] = LinkMade(link=LINK, token="TOKEN", url="https://files.example.org/link#TOKEN")
    done = run("link", "add", "shop/web/1", "--note", "for Berta")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:3] == ["Link, shown this once", "  https://files.example.org/link#TOKEN"]
    assert "web.url" not in done.stdout


def test_where_that_is_not_known_it_says_so(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[MakeLink] = LinkMade(link=LINK, token="TOKEN", url="")
    text = run("link", "add", "shop/web/1").stdout
    assert "  /link#TOKEN\n" in text
    assert "set web.url" in text


def test_why_there_is_none_is_said(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[MakeLink] = ConflictError("the web pages are off: set enabled = true below [web], then reload")
    done = run("link", "add", "shop/web/1")
    assert done.exit_code == 6
    assert "the web pages are off: set enabled = true below [web], then reload" in done.stderr
