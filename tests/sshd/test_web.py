"""The web pages of a whole `hatchway run`: an operator signs in by PAM, finds what is there, and gets a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sshd.running import Hatchway, running
from tests.sshd.test_sign_in import HIDE, PASSWORD, Accounts
from tests.web.browsing import Client

PORT = 18022
PAGE = "/instances/shop/web/1"


@pytest.fixture(scope="module")
def hatchway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hatchway]:
    accounts = Accounts(tmp_path_factory.mktemp("etc"))
    within = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", HIDE, str(accounts.directory))
    with running("shop/web/1", web=f'enabled = true\nlisten = ["127.0.0.1:{PORT}"]', within=within) as made:
        yield made


def test_from_signing_in_to_a_key(hatchway: Hatchway) -> None:
    client = Client(f"https://127.0.0.1:{PORT}")
    assert client.sign_in("anna", "wrong").status == 403
    assert client.sign_in("anna", PASSWORD).status == 303
    assert PAGE in client.get("/").read.links
    form = next(form for form in client.get(PAGE).read.forms if form.action == f"{PAGE}/volumes/enable")
    answer = client.follow(client.send(form, mode="rw"))
    assert "is on, to read and write" in answer.text
    dialog = client.get(f"{PAGE}/connect")
    assert "shop-web-1" in dialog.text and "SHA256:" in dialog.text
    key = client.send(dialog.form(f"{PAGE}/connect/key", form="openssh"))
    assert key.header("content-disposition") == 'attachment; filename="id_container-shop-web-1"'
    assert key.page.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    password = client.send(dialog.form(f"{PAGE}/connect/reveal"))
    assert any(":" in link.split("@")[0][7:] for link in password.read.links if link.startswith("sftp://"))
    for page in ("/sessions", "/log", "/status", PAGE, f"{PAGE}/password", f"{PAGE}/renew-key"):
        assert client.get(page).status == 200, page
    entries = hatchway.command("log")["entries"]
    assert any("operator anna (web)" in one["who"] for one in entries)
