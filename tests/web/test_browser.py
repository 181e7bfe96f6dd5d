"""The pages in Chromium, with and without scripts: dialog, copying, revealing, downloads, keyboard, accessibility."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Route, expect
from tests.chromium import browser
from tests.web import sample
from tests.web.core import NAME, PASSWORD, PERSON, PERSONS_PASSWORD, PRIVATE_KEY, RAW_PASSWORD, FakeCore

from hatchway.web import paths

pytestmark = pytest.mark.browser

WEB = paths.instance(sample.WEB)
PAGES = (
    "/", "/?q=nothing-at-all", "/sessions", "/log", "/status", "/nothing-here", WEB, paths.instance(sample.DB),
    paths.instance(sample.FRESH), f"{paths.instance(sample.FRESH)}/connect", f"{WEB}/connect", f"{WEB}/password",
    f"{WEB}/renew-key", f"{WEB}/links", f"{WEB}/people", "/link", "/link?closed=used",
)  # fmt: skip
ANNA = "/people/anna"
PEOPLE_PAGES = (
    "/people", "/people?q=nobody", "/add-person", ANNA, "/people/bert", "/people/clara", f"{ANNA}/connect",
    f"{ANNA}/password", f"{ANNA}/renew-key", f"{ANNA}/remove", f"{ANNA}/revoke-all", f"{ANNA}/share",
    f"{ANNA}/share?q=nothing-at-all", f"{ANNA}/share/shop/web/1", f"{ANNA}/share/intranet/mail/1",
)  # fmt: skip
OWN_PAGES = ("/me", "/me/log", "/me/connect", "/me/password", "/me/renew-key", "/sessions")
WIDTHS = (360, 768, 1280, 1920)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for all tests of this file."""
    with browser() as made:
        yield made


@pytest.fixture
def context(chromium: Browser, site: str) -> Iterator[BrowserContext]:
    """A profile of its own, which may use the clipboard."""
    context = chromium.new_context(base_url=site, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, core: FakeCore) -> Iterator[Page]:
    """Signed in, at the list of instances. Whatever the console complains of fails the test."""
    core.know(sample.plain())
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    sign_in(page)
    yield page
    assert [text for text in complaints if "status of 40" not in text] == []


def sign_in(page: Page, name: str = NAME, password: str = PASSWORD, heading: str = "Instances") -> None:
    """As anybody does."""
    page.goto("/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()


@pytest.fixture
def anna(context: BrowserContext, core: FakeCore) -> Iterator[Page]:
    """A person who has signed in, at what is shared with her. As `page`."""
    core.know(sample.plain())
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    sign_in(page, PERSON, PERSONS_PASSWORD, "Hello, Anna Berg")
    yield page
    assert [text for text in complaints if "status of 40" not in text] == []


def clipboard(page: Page) -> str:
    """What was copied."""
    return str(page.evaluate("navigator.clipboard.readText()"))


def open_dialog(page: Page) -> None:
    """By the icon of the first volume."""
    page.goto(WEB)
    page.get_by_role("link", name="Connect to /srv/uploads").click()
    expect(page.get_by_role("dialog")).to_contain_text("sftp.example.com")


RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""Those to which it matters which colours there are."""


def violations(page: Page) -> list[str]:
    """What axe-core finds, in light and in dark: of the latter only what is about colours, all else is the same."""
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    # The policy lets no script of others in; the debugger's protocol asks nobody.
    page.evaluate(axe)
    told = []
    schemes: tuple[tuple[Literal["light", "dark"], str, tuple[str, ...]], ...] = (
        ("dark", "rule", COLOUR_RULES),
        ("light", "tag", RULES),
    )
    for scheme, kind, values in schemes:
        # Colours that change at once.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = page.evaluate("only => axe.run(document, {runOnly: only})", {"type": kind, "values": values})
        assert "color-contrast" in {one["id"] for one in (*found["passes"], *found["violations"])}
        told += [
            f"{scheme}, {one['id']}: {one['help']}: {node['html'][:160]} {node['failureSummary']}"
            for one in found["violations"]
            for node in one["nodes"]
        ]
    return told


def test_dialog(page: Page) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    values = {"host": "sftp.example.com", "port": "2022", "user name": "shop-web-1", "start folder": "/srv/uploads"}
    for what, value in values.items():
        dialog.get_by_role("button", name=f"Copy {what}", exact=True).click()
        expect(page.get_by_role("status").filter(has_text=f"Copied: {what}")).to_be_visible()
        assert clipboard(page) == value
    assert RAW_PASSWORD not in page.content()
    link = dialog.get_by_role("link", name="Open in SFTP application")
    assert link.get_attribute("href") == "sftp://shop-web-1@sftp.example.com:2022/srv/uploads/"
    dialog.get_by_role("button", name="Reveal").click()
    expect(dialog).to_contain_text(RAW_PASSWORD)
    dialog.get_by_role("button", name="Copy password").click()
    expect(page.get_by_role("status").filter(has_text="Copied: password")).to_be_visible()
    assert clipboard(page) == RAW_PASSWORD
    assert (link.get_attribute("href") or "").startswith("sftp://shop-web-1:correct%20horse")
    dialog.get_by_role("link", name="Hide").click()
    expect(dialog).not_to_contain_text(RAW_PASSWORD)
    dialog.get_by_role("button", name="Reveal").click()
    expect(dialog).to_contain_text(RAW_PASSWORD)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert RAW_PASSWORD not in page.content()
    assert page.url.endswith(WEB)
    expect(page.get_by_role("link", name="Connect to /srv/uploads")).to_be_focused()


def test_downloads_in_the_dialog(page: Page) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    with page.expect_download() as key:
        dialog.get_by_role("button", name="id_container").click()
    assert key.value.suggested_filename == "id_container-shop-web-1"
    assert Path(key.value.path()).read_text() == PRIVATE_KEY
    dialog.locator("summary", has_text=".ppk").click()
    dialog.get_by_label("Passphrase").fill("geheim")
    dialog.get_by_role("button", name="Download .ppk").click()
    # The browser says that it is too short: nobody is led out of the dialog.
    expect(dialog.locator("input[name=passphrase]:invalid")).to_be_focused()
    dialog.get_by_label("Passphrase").fill("geheim genug")
    with page.expect_download() as ppk:
        dialog.get_by_role("button", name="Download .ppk").click()
    assert ppk.value.suggested_filename == "id_container-shop-web-1.ppk"
    dialog.locator("summary", has_text="FileZilla").click()
    with page.expect_download() as site:
        dialog.get_by_role("button", name="Site file for FileZilla").click()
    assert site.value.suggested_filename == "filezilla-shop-web-1.xml"
    expect(dialog).to_be_visible()


def test_renew_in_the_dialog(page: Page, core: FakeCore) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    before = core.keys[0].fingerprint
    dialog.get_by_role("link", name="Renew key…").click()
    expect(dialog).to_contain_text("The old key does not work any more")
    assert core.keys[0].fingerprint == before
    dialog.get_by_role("button", name="Renew the key").click()
    expect(dialog).to_contain_text("There is a new key")
    expect(dialog).to_contain_text(core.keys[0].fingerprint)
    dialog.get_by_role("button", name="Close").click()
    # What is behind it follows.
    page.reload()
    expect(page.get_by_role("main")).to_contain_text(core.keys[0].fingerprint)


def test_password_in_the_dialog(page: Page, core: FakeCore) -> None:
    open_dialog(page)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("link", name="Change").click()
    expect(dialog).to_contain_text("Password of shop-web-1")
    dialog.get_by_label("As a hash").first.check()
    dialog.get_by_role("button", name="Make a new password").click()
    expect(dialog).to_contain_text("The new password")
    expect(dialog).to_contain_text(core.password)
    dialog.get_by_role("link", name="Go on to the connection").click()
    expect(dialog).to_contain_text("type the password itself, not the hash")
    assert core.password not in page.content()


def test_session_ends_while_a_dialog_is_open(page: Page, core: FakeCore) -> None:
    open_dialog(page)
    core.tokens.clear()
    page.get_by_role("dialog").get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_live_state(page: Page, core: FakeCore) -> None:
    page.clock.install()
    page.goto("/sessions")
    expect(page.get_by_role("main")).to_contain_text("192.0.2.17")
    core.sessions = core.sessions[1:2]
    page.clock.run_for(16_000)
    expect(page.get_by_role("main")).not_to_contain_text("192.0.2.17")
    expect(page.get_by_role("main")).to_contain_text("1 open session")


def test_an_open_menu_stays_when_news_come(page: Page, core: FakeCore) -> None:
    """What was done in the dialog makes the page behind it stale: it is asked for anew when the dialog closes."""
    page.clock.install()
    page.goto(WEB)
    open_dialog(page)
    dialog, main = page.get_by_role("dialog"), page.get_by_role("main")
    dialog.get_by_role("button", name="Reveal").click()
    expect(dialog).to_contain_text(RAW_PASSWORD)
    held: list[Route] = []
    page.route(f"**{WEB}", lambda route: held.append(route))
    core.sessions.clear()
    one = core.instances[sample.WEB]
    volumes = tuple(msgspec.structs.replace(volume, path=f"{volume.path}-new") for volume in one.volumes)
    core.instances[sample.WEB] = msgspec.structs.replace(one, volumes=volumes)
    with page.expect_request(f"**{WEB}"):
        page.keyboard.press("Escape")
    page.locator(".volume").first.locator("summary").click()
    with page.expect_response(f"**{WEB}"):
        held[0].continue_()
    page.unroute(f"**{WEB}")
    # What is not in use is new at once.
    expect(main.locator("[data-live=sessions]")).not_to_contain_text("192.0.2.17")
    page.clock.run_for(16_000)
    expect(page.get_by_role("button", name="Make it read-only")).to_be_visible()
    expect(main).not_to_contain_text("/srv/uploads-new")
    page.keyboard.press("Escape")
    page.clock.run_for(16_000)
    expect(main).to_contain_text("/srv/uploads-new")


def test_times_are_the_readers_own(chromium: Browser, site: str, core: FakeCore) -> None:
    context = chromium.new_context(base_url=site, timezone_id="Asia/Tokyo", locale="de-DE")
    page = context.new_page()
    sign_in(page)
    page.goto("/log")
    expect(page.get_by_role("main")).to_contain_text("27.11.2026, 18:16:40")
    expect(page.get_by_role("main")).to_contain_text("Asia/Tokyo")
    context.close()


def test_without_scripts(chromium: Browser, site: str, core: FakeCore) -> None:
    context = chromium.new_context(base_url=site, java_script_enabled=False, accept_downloads=True)
    context.set_default_timeout(10_000)
    page = context.new_page()
    core.know(sample.plain())
    sign_in(page)
    page.get_by_label("Search").fill("shop uploads")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="#1 of web in shop").click()
    page.get_by_role("link", name="Connect to /srv/uploads").click()
    assert page.url.endswith(f"{WEB}/connect")
    expect(page.get_by_role("main")).to_contain_text("sftp.example.com")
    assert page.get_by_role("button", name="Copy host").count() == 0
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("main")).to_contain_text(RAW_PASSWORD)
    with page.expect_download() as key:
        page.get_by_role("button", name="id_container").click()
    assert key.value.suggested_filename == "id_container-shop-web-1"
    page.get_by_role("link", name="Renew key…").click()
    page.get_by_role("button", name="Renew the key").click()
    expect(page.get_by_role("main")).to_contain_text("There is a new key")
    page.goto("/log")
    expect(page.get_by_role("main")).to_contain_text("2026-11-27 09:16:40 UTC")
    page.goto(WEB)
    page.locator(".volume", has_text="/var/cache/shop").get_by_role("button", name="Turn on").click()
    expect(page.get_by_role("main")).to_contain_text("Remote access to /var/cache/shop is on")
    page.locator(".volume", has_text="/var/cache/shop").locator("summary").click()
    page.get_by_role("button", name="Turn off").click()
    expect(page.get_by_role("main")).to_contain_text("Remote access to /var/cache/shop is off")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()


def test_by_keyboard(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("shop web")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=shop+web**")
    page.goto(WEB)
    page.get_by_role("link", name="Connect to /srv/uploads").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("sftp.example.com")
    for _ in range(60):
        page.keyboard.press("Tab")
        # Chromium goes to its own controls in between, then the body is active.
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    menu = page.locator(".volume").first.locator("summary")
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Connect to /srv/uploads")).to_be_focused()
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Make it read-only")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Make it read-only")).to_be_hidden()
    expect(menu).to_be_focused()


def test_axe(chromium: Browser, site: str, core: FakeCore) -> None:
    # What is just appearing has less contrast than what has appeared.
    context = chromium.new_context(base_url=site, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    page = context.new_page()
    core.conditions = msgspec.structs.replace(core.conditions, locked_at=sample.NOW, locked_why="a key was lost")
    core.know(sample.plain())
    page.goto("/sign-in")
    found = {"/sign-in": violations(page)}
    sign_in(page)
    for path in (*PAGES, *PEOPLE_PAGES):
        page.goto(path)
        # What is folded counts as well.
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        found[path] = violations(page)
    open_dialog(page)
    found["dialog"] = violations(page)
    page.get_by_role("dialog").get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("dialog")).to_contain_text(RAW_PASSWORD)
    found["revealed"] = violations(page)
    context.close()
    assert [f"{path} {one}" for path, here in found.items() for one in here] == []


def wider(page: Page, *those: str) -> dict[tuple[str, int], int]:
    """How wide pages are that do not fit into a window of one of WIDTHS."""
    found = {}
    for path in those:
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                found[path, width] = wide
    return found


def test_nothing_is_wider_than_the_window(page: Page, core: FakeCore) -> None:
    core.know(sample.plain() + sample.hostile())
    instances = (paths.instance(one.key) for one in sample.hostile())
    assert wider(page, *PAGES, *PEOPLE_PAGES, *instances) == {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        open_dialog(page)
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_hostile_names_do_nothing(page: Page, core: FakeCore) -> None:
    core.know(sample.hostile())
    asked: list[str] = []

    def asks(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", asks)
    for one in sample.hostile():
        page.goto("/")
        page.locator(f'a.instance-link[href="{paths.instance(one.key)}"]').click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.url.endswith(paths.instance(one.key))
        page.get_by_role("link", name="Connect", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text(f"hostile-{one.key.number}")
        assert re.fullmatch(r"sftp://[\x21-\x7e]+", page.locator("[data-launch]").first.get_attribute("href") or "")
    assert asked == []


def test_a_share_link(page: Page, chromium: Browser, site: str) -> None:
    page.goto(WEB)
    page.get_by_role("link", name="Share link").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("For whom").fill("Berta")
    dialog.get_by_role("button", name="Make the link").click()
    expect(dialog.get_by_role("heading", name="The link")).to_be_visible()
    dialog.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("status").filter(has_text="Copied: link")).to_be_visible()
    address = clipboard(page)
    assert address.startswith(f"{site}/link#")
    assert violations(page) == []
    dialog.get_by_role("link", name="Done").click()
    expect(dialog.get_by_text("opened 0 of 1 time")).to_be_visible()

    elsewhere = chromium.new_context(viewport={"width": 360, "height": 800})
    try:
        asked: list[str] = []
        theirs = elsewhere.new_page()
        theirs.on("request", lambda request: asked.append(f"{request.url} {request.headers} {request.post_data}"))
        theirs.goto(address)
        token = address.rpartition("#")[2]
        # It is in the form, and neither in the address nor sent anywhere.
        expect(theirs.get_by_role("button", name="Open")).to_be_focused()
        assert theirs.url == f"{site}/link"
        assert theirs.locator("[name=token]").input_value() == token
        assert not theirs.locator("[name=token]").is_visible()
        assert token not in "".join(one for one in asked if "POST" not in one)
        assert violations(theirs) == []
        theirs.get_by_role("button", name="Open").click()
        expect(theirs.get_by_role("heading", name="Connect to web")).to_be_visible()
        assert violations(theirs) == []
        theirs.get_by_role("button", name="Reveal").click()
        expect(theirs.get_by_text(RAW_PASSWORD)).to_be_visible()
        assert token not in theirs.content()
    finally:
        elsewhere.close()


# --- people ---------------------------------------------------------------------------------------------------------


def test_a_person_and_what_is_hers(anna: Page) -> None:
    main = anna.get_by_role("main")
    expect(main).to_contain_text("/shop-web-1/srv/uploads")
    expect(main).to_contain_text("Not to be had now")
    expect(main).not_to_contain_text("/var/lib/postgresql")
    tabs = anna.get_by_role("navigation", name="Main").get_by_role("link")
    assert tabs.all_inner_texts() == ["Shared with you", "Log"]
    for path in ("/sessions", "/people", WEB, f"{ANNA}/share"):
        anna.goto(path)
        expect(anna.get_by_role("heading", name="This is not allowed")).to_be_visible()
    anna.get_by_role("link", name="To the first page").click()
    expect(anna.get_by_role("heading", name="Hello, Anna Berg")).to_be_visible()
    anna.get_by_role("link", name="Log", exact=True).click()
    expect(anna.get_by_role("main")).to_contain_text("wrong password")
    expect(anna.get_by_role("main")).not_to_contain_text("shop.toml")


def test_a_persons_dialog(anna: Page, core: FakeCore) -> None:
    anna.get_by_role("link", name="Connect to /shop-web-1/srv/uploads").click()
    dialog = anna.get_by_role("dialog")
    expect(dialog).to_contain_text("3 volumes over SFTP")
    for what, value in {"host": "sftp.example.com", "port": "2022", "user name": "anna", "start folder": "/"}.items():
        dialog.get_by_role("button", name=f"Copy {what}", exact=True).click()
        expect(anna.get_by_role("status").filter(has_text=f"Copied: {what}")).to_be_visible()
        assert clipboard(anna) == value
    assert RAW_PASSWORD not in anna.content()
    dialog.get_by_role("button", name="Reveal").click()
    expect(dialog).to_contain_text(RAW_PASSWORD)
    link = dialog.get_by_role("link", name="Open in SFTP application")
    assert (link.get_attribute("href") or "").startswith("sftp://anna:correct%20horse")
    with anna.expect_download() as key:
        dialog.get_by_role("button", name="id_container").click()
    assert key.value.suggested_filename == "id_container-anna"
    assert Path(key.value.path()).read_text() == PRIVATE_KEY
    before = core.keys[0].fingerprint
    dialog.get_by_role("link", name="Renew key…").click()
    expect(dialog).to_contain_text("1 session of this login is open now")
    dialog.get_by_role("button", name="Renew the key").click()
    expect(dialog).to_contain_text("There is a new key")
    assert core.keys[0].fingerprint != before
    anna.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert RAW_PASSWORD not in anna.content()


def test_a_person_changes_her_password(anna: Page, core: FakeCore) -> None:
    anna.get_by_role("link", name="Change password").click()
    dialog = anna.get_by_role("dialog")
    expect(dialog).to_contain_text("It is the one for SFTP, and for these pages")
    for current, told in (("a guess", "The current password is wrong"), (PERSONS_PASSWORD, "Your password is changed")):
        dialog.get_by_label("Current password").fill(current)
        dialog.get_by_label("New password").fill("a better password")
        dialog.get_by_label("Once more").fill("a better password")
        dialog.get_by_role("button", name="Change password").click()
        expect(dialog).to_contain_text(told)
    expect(dialog).to_contain_text("the one you chose or were given; nobody can look it up")
    assert core.persons_password == "a better password"
    dialog.get_by_role("button", name="Close").click()
    # The same browser goes on.
    anna.reload()
    expect(anna.get_by_role("heading", name="Hello, Anna Berg")).to_be_visible()


def test_a_person_sees_to_her_keys_and_sessions(anna: Page, core: FakeCore) -> None:
    anna.locator("summary", has_text="Add a public key").click()
    anna.get_by_label("Public key").fill("ssh-ed25519 AAAA anna@home")
    anna.get_by_role("button", name="Add key").click()
    expect(anna.get_by_role("main")).to_contain_text("anna@home")
    anna.get_by_role("button", name="Remove key anna@home").click()
    expect(anna.get_by_role("main")).not_to_contain_text("anna@home")
    anna.get_by_role("button", name="End the session from 198.51.100.4").click()
    expect(anna.get_by_role("main")).to_contain_text("Nobody is connected")
    assert {one.login for one in core.sessions} == {"shop-web-1"}


def test_people_without_scripts(chromium: Browser, site: str, core: FakeCore) -> None:
    context = chromium.new_context(base_url=site, java_script_enabled=False)
    context.set_default_timeout(10_000)
    page = context.new_page()
    core.know(sample.plain())
    sign_in(page, PERSON, PERSONS_PASSWORD, "Hello, Anna Berg")
    page.get_by_role("link", name="Connect to /shop-web-1/srv/uploads").click()
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("main")).to_contain_text(RAW_PASSWORD)
    page.get_by_role("link", name="Change").click()
    page.get_by_label("Current password").fill(PERSONS_PASSWORD)
    page.get_by_label("New password").fill("a better password")
    page.get_by_label("Once more").fill("a better password")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("main")).to_contain_text("Your password is changed")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()


def test_an_operator_adds_shares_takes_away_and_removes(page: Page, core: FakeCore) -> None:
    page.get_by_role("link", name="People").click()
    page.get_by_role("link", name="Add a person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Login").fill("anna")
    dialog.get_by_label("Full name").fill("Dora Klein")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Anna is taken")
    expect(dialog.get_by_label("Full name")).to_have_value("Dora Klein")
    dialog.get_by_label("Login").fill("dora")
    dialog.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Dora Klein", level=1)).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("dora is added")
    page.get_by_role("link", name="Share something").first.click()
    page.get_by_role("searchbox").fill("shop uploads web-1")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="web #1").click()
    page.get_by_label("/srv/uploads").check()
    page.get_by_label("Read and write").check()
    page.get_by_label("Only this folder").fill("photos")
    page.get_by_role("button", name="Share").click()
    main = page.get_by_role("main")
    expect(main).to_contain_text("/srv/uploads, only photos, of shop/web/1 is shared with dora")
    assert [one.folder for one in core.people["dora"].volumes] == ["photos"]
    page.locator(".volume").locator("summary").click()
    page.get_by_role("button", name="Make it read-only").click()
    expect(main).to_contain_text("is shared with dora, read-only")
    page.get_by_role("link", name="Connect", exact=True).click()
    expect(dialog).to_contain_text("Connect as dora")
    page.keyboard.press("Escape")
    page.locator(".volume").locator("summary").click()
    page.get_by_role("button", name="Take it away").click()
    expect(main).to_contain_text("is no longer shared with dora")
    assert core.people["dora"].volumes == ()
    page.get_by_role("link", name="Remove dora…").click()
    expect(dialog).to_contain_text("Nobody gets the login dora again")
    dialog.get_by_role("button", name="Remove dora").click()
    expect(page.get_by_role("main")).to_contain_text("dora is removed")
    assert "dora" not in core.people
    page.goto(WEB)
    page.get_by_role("link", name="clara").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Clara Özdemir")


def test_takes_everything_away(page: Page, core: FakeCore) -> None:
    page.goto(ANNA)
    page.get_by_role("link", name="Take everything away…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("/uploads/photos/2026 of blog/web/1")
    dialog.get_by_role("button", name="Take everything away").click()
    expect(page.get_by_role("main")).to_contain_text("Nothing is shared with anna any more")
    assert core.people["anna"].volumes == ()


def test_axe_of_what_is_a_persons_own(chromium: Browser, site: str, core: FakeCore) -> None:
    context = chromium.new_context(base_url=site, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    page = context.new_page()
    core.know(sample.plain())
    found = {}
    for name, heading in ((PERSON, "Hello, Anna Berg"), ("bert", "Hello, bert")):
        sign_in(page, name, PERSONS_PASSWORD, heading)
        for path in OWN_PAGES:
            page.goto(path)
            page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
            found[f"{name} {path}"] = violations(page)
        page.goto("/me")
        page.get_by_role("button", name="Sign out").click()
    context.close()
    assert [f"{path} {one}" for path, here in found.items() for one in here] == []


def test_nothing_of_a_persons_is_wider_than_the_window(anna: Page, core: FakeCore) -> None:
    hostile = [
        sample.person_volume(one.key, one.volumes[0].path, folder=one.volumes[0].name.strip("/"))
        for one in sample.hostile()
    ]
    volumes = (*core.people["anna"].volumes, *hostile)
    core.people["anna"] = msgspec.structs.replace(core.people["anna"], full_name="n" * 100, volumes=volumes)
    assert wider(anna, *OWN_PAGES) == {}
