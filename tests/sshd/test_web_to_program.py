"""From a page to a program, in Chromium and against a whole `hatchway run`: what is shown there is what connects."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from tests.chromium import browser
from tests.sshd.entering import Credential, Verdict, attempt
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_sign_in import HIDE, PASSWORD, Accounts

pytestmark = pytest.mark.browser

PORT = 18023
URL = f"https://127.0.0.1:{PORT}"
INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
PAGE = "/instances/shop/web/1"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def hatchway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hatchway]:
    accounts = Accounts(tmp_path_factory.mktemp("etc"))
    within = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", HIDE, str(accounts.directory))
    web = f'enabled = true\nlisten = ["127.0.0.1:{PORT}"]'
    with running("shop/web/1", "shop/web/2", web=web, within=within) as made:
        made.enable(INSTANCE)
        yield made


@contextlib.contextmanager
def visiting(chromium: Browser) -> Iterator[Page]:
    """Somebody at a computer of their own."""
    context: BrowserContext = chromium.new_context(
        base_url=URL, ignore_https_errors=True, viewport={"width": 1280, "height": 900}
    )
    context.set_default_timeout(20_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=URL)
    try:
        yield context.new_page()
    finally:
        context.close()


def sign_in(page: Page, name: str, password: str) -> None:
    page.goto("/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def downloaded(hatchway: Hatchway, page: Page, place: Locator, name: str) -> str:
    """The key that a button of the page gives, as the browser has saved it: only its mode is changed. Its name, by
    which `Hatchway.sftp` takes it."""
    with page.expect_download() as found:
        place.get_by_role("button", name="id_container").click()
    path = hatchway.keys / name
    found.value.save_as(path)
    path.chmod(0o600)
    return name


def copied(page: Page, place: Locator, what: str) -> str:
    place.get_by_role("button", name=f"Copy {what}", exact=True).click()
    expect(page.get_by_role("status").filter(has_text=f"Copied: {what}")).to_be_visible()
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_an_operator_walks_to_an_instance_and_connects(hatchway: Hatchway, chromium: Browser) -> None:
    with visiting(chromium) as page:
        sign_in(page, "anna", "not this one")
        expect(page.get_by_role("alert")).to_contain_text("wrong")
        sign_in(page, "anna", PASSWORD)
        page.get_by_role("link", name="#1 of web in shop").click()
        expect(page.get_by_role("heading", name="web #1")).to_be_visible()
        page.get_by_role("link", name="Connect to /data").click()
        dialog = page.get_by_role("dialog")
        assert copied(page, dialog, "user name") == LOGIN
        assert copied(page, dialog, "port") == str(hatchway.port)
        # The password that was revealed, copied, and typed into a program.
        dialog.get_by_role("button", name="Reveal").click()
        password = copied(page, dialog, "password")
        hatchway.sftp(LOGIN, "ls /data", password=password)
        # Exactly the file that was downloaded.
        old = downloaded(hatchway, page, dialog, "old")
        hatchway.sftp(LOGIN, "put /etc/hosts /data/hosts\nls /data", key=old)
        # The command that the page shows, word for word but for where the key was saved.
        dialog.locator("summary", has_text="OpenSSH (sftp)").click()
        command = shlex.split(copied(page, dialog, "sftp command with the key"))
        assert command[0] == "sftp" and command[-1].startswith(f"{LOGIN}@")
        dialog.get_by_role("link", name="Renew key…").click()
        dialog.get_by_role("button", name="Renew the key").click()
        expect(dialog).to_contain_text("There is a new key")
        assert attempt(hatchway, LOGIN, Credential(old)) is Verdict.DENIED
        new = downloaded(hatchway, page, dialog, "new")
        assert attempt(hatchway, LOGIN, Credential(new)) is Verdict.IN


def made_link(page: Page, **fields: str) -> str:
    """The address of a link that an operator who is signed in makes."""
    page.goto(f"{PAGE}/links")
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=False).fill(value)
    page.get_by_role("button", name="Make the link").click()
    return page.locator("[data-value=link]").inner_text()


def opens(chromium: Browser, address: str) -> bool:
    """Whether a link opens for somebody new, after a click."""
    with visiting(chromium) as page:
        page.goto(address)
        # Looking is not opening it.
        expect(page.get_by_role("button", name="Open")).to_be_visible()
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("heading", name="Connect to web").or_(page.get_by_role("alert"))).to_be_visible()
        return not page.get_by_role("alert").is_visible()


def test_a_share_link(hatchway: Hatchway, chromium: Browser) -> None:
    with visiting(chromium) as page, visiting(chromium) as theirs:
        sign_in(page, "anna", PASSWORD)
        expect(page.get_by_role("heading", name="Instances")).to_be_visible()
        address = made_link(page, For_whom="Berta")
        for _ in range(2):
            # What looks at links in mails, and does not press buttons.
            theirs.goto(address)
        assert hatchway.command("link", "ls")["links"][0]["uses"] == 0
        theirs.get_by_role("button", name="Open").click()
        place = theirs.get_by_role("main")
        expect(place.get_by_role("heading", name="Connect to web")).to_be_visible()
        assert attempt(hatchway, LOGIN, Credential(downloaded(hatchway, theirs, place, "theirs"))) is Verdict.IN
        # Nothing of the other instance, and nothing that changes anything.
        for path in ("/instances/shop/web/2/connect", "/instances/shop/web/2", PAGE, f"{PAGE}/renew-key", "/log"):
            answer = theirs.goto(path)
            assert answer is not None and answer.status in (403, 404), path
        assert not opens(chromium, address), "it is used up"
        # One that is taken back ends who came in by it as well.
        address = made_link(page, How_often="3")
        with visiting(chromium) as other:
            other.goto(address)
            other.get_by_role("button", name="Open").click()
            expect(other.get_by_role("heading", name="Connect to web")).to_be_visible()
            name = hatchway.command("link", "ls")["links"][0]["name"]
            page.goto(f"{PAGE}/links")
            page.get_by_role("button", name=f"Take back the link {name}").click()
            expect(page.get_by_text("is taken back")).to_be_visible()
            other.reload()
            expect(other.get_by_role("heading", name="Closed")).to_be_visible()
        assert not opens(chromium, address)
        # One that expires does so by itself.
        made = hatchway.command("link", "add", INSTANCE, "--expires", "6s", "--uses", "5")
        address = f"{URL}/link#{made['token']}"
        assert opens(chromium, address)
        wait_until(lambda: time.time() > made["link"]["expires_at"], "it has expired", 30)
        assert not opens(chromium, address)


def test_what_is_known_of_it_afterwards(hatchway: Hatchway) -> None:
    """The record names who did what, and holds no token."""
    entries = hatchway.command("log", INSTANCE, "-n", "1000")["entries"]
    told = [(one["what"], one["who"]) for one in entries]
    assert any(what.startswith("link made, until ") and who.startswith("operator anna (web)") for what, who in told)
    assert any(what == "opened" and who.startswith("link ") for what, who in told)
    assert any(what.startswith("private key handed out") and who.startswith("link ") for what, who in told)
    made = hatchway.command("link", "add", INSTANCE)
    assert made["token"] not in hatchway.log() + str(hatchway.command("log", "-n", "1000"))


def test_a_person_sees_what_is_theirs_and_connects(hatchway: Hatchway, chromium: Browser) -> None:
    hatchway.command("person", "add", "berta", "--name", "Berta Lang")
    hatchway.command("person", "grant", "berta", INSTANCE, "/data", "--read-only")
    hatchway.command("person", "add", "carla")
    hatchway.command("person", "grant", "carla", "shop/web/2", "/data")
    password = hatchway.command("password", "reset", "berta")["password"]
    with visiting(chromium) as page:
        sign_in(page, "berta", password)
        expect(page.get_by_role("heading", name="Hello, Berta Lang")).to_be_visible()
        main = page.get_by_role("main")
        expect(main).to_contain_text("read-only")
        for strange in ("shop-web-2", "shop/web/2", "carla", str(hatchway.directory)):
            expect(main).not_to_contain_text(strange)
        for path in ("/people", "/people/carla", PAGE, f"{PAGE}/connect", "/sessions", "/log", "/status"):
            answer = page.goto(path)
            assert answer is not None and answer.status in (403, 404), path
        page.goto("/me")
        page.get_by_role("link", name="Connect", exact=True).click()
        dialog = page.get_by_role("dialog")
        assert copied(page, dialog, "user name") == "berta"
        key = downloaded(hatchway, page, dialog, "bertas")
        done = hatchway.sftp("berta", f"get /{LOGIN}/data/hosts /dev/null\n-put /etc/hosts /{LOGIN}/data/more", key=key)
        assert "more" not in [path.name for path in hatchway.volumes.glob("*/*")]
        assert "denied" in done.stderr.lower()
        dialog.get_by_role("link", name="Renew key…").click()
        dialog.get_by_role("button", name="Renew the key").click()
        expect(dialog).to_contain_text("There is a new key")
        assert attempt(hatchway, "berta", Credential(key)) is Verdict.DENIED
        # A password of their own, which is the one of SFTP too.
        page.goto("/me/password")
        page.get_by_label("Current password").fill("not this one")
        page.get_by_label("New password").fill("nine lives of a cat")
        page.get_by_label("Once more").fill("nine lives of a cat")
        page.get_by_role("button", name="Change password").click()
        expect(page.get_by_text("current password is wrong")).to_be_visible()
        page.get_by_label("Current password").fill(password)
        page.get_by_label("New password").fill("nine lives of a cat")
        page.get_by_label("Once more").fill("nine lives of a cat")
        page.get_by_role("button", name="Change password").click()
        expect(page.get_by_role("status").filter(has_text="password")).to_be_visible()
        hatchway.sftp("berta", f"ls /{LOGIN}/data", password="nine lives of a cat")
        # Who is removed is out at once.
        hatchway.command("person", "remove", "berta")
        page.goto("/me")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_an_operator_gives_somebody_an_account(hatchway: Hatchway, chromium: Browser) -> None:
    with visiting(chromium) as page:
        sign_in(page, "anna", PASSWORD)
        page.get_by_role("link", name="People").click()
        page.get_by_role("link", name="Add a person").click()
        dialog, main = page.get_by_role("dialog"), page.get_by_role("main")
        dialog.get_by_label("Login").fill("dora")
        dialog.get_by_label("Full name").fill("Dora Klein")
        dialog.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("link", name="Share something").first.click()
        page.get_by_role("searchbox").fill(INSTANCE)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="web #1").click()
        page.get_by_label("/data").check()
        page.get_by_role("button", name="Share", exact=True).click()
        expect(main).to_contain_text(f"/data of {INSTANCE} is shared with dora")
        page.get_by_role("link", name="Connect", exact=True).click()
        dialog.get_by_role("button", name="Reveal").click()
        password = copied(page, dialog, "password")
        hatchway.sftp("dora", f"ls /{LOGIN}/data", password=password)
        page.keyboard.press("Escape")
        page.locator(".volume").locator("summary").click()
        page.get_by_role("button", name="Take it away").click()
        expect(main).to_contain_text("is no longer shared with dora")
        assert attempt(hatchway, "dora", Credential(password=password)) is Verdict.DENIED
