"""Share links on the pages: made and taken back by operators, opened by whoever has one."""

from __future__ import annotations

import html
import re

import pytest
from tests.web import sample
from tests.web.browsing import Answer, Client
from tests.web.core import PRIVATE_KEY, RAW_PASSWORD, FakeCore

from hatchway.credentials.passwords import CHARS_MIN
from hatchway.web import paths
from hatchway.wire.web import ViewerKind

WEB = paths.instance(sample.WEB)
CONNECT = "/shared/connect"


def make(operator: Client, **fields: str) -> Answer:
    """A link, by the form."""
    return operator.send(operator.get(f"{WEB}/links").form(f"{WEB}/links/make"), life="1d", **fields)


def address(made: Answer) -> str:
    """The address that is shown."""
    found = re.search(r'data-value="link"[^>]*>([^<]+)<', made.page)
    assert found is not None, made.page
    return html.unescape(found[1])


def open_link(client: Client, text: str) -> Answer:
    """As somebody without scripts does: paste it, and press the button."""
    return client.send(client.get("/link").form("/link"), token=text)


def test_a_link_opens_after_a_click_and_shows_the_connection_only(
    operator: Client, visitor: Client, site: str, core: FakeCore
) -> None:
    made = make(operator, note="for Berta <b>")
    shown = address(made)
    assert shown.startswith(f"{site}/link#link-")
    assert "for Berta &lt;b&gt;" in operator.get(f"{WEB}/links").page
    assert shown not in operator.get(f"{WEB}/links").page, "it is shown once"
    # What looks at links in mails gets a page and nothing else, and the server never hears of the token.
    assert visitor.get("/link").status == 200
    assert not [one for one in core.tokens.values() if one.kind is ViewerKind.LINK]
    there = open_link(visitor, shown)
    assert there.header("location") == CONNECT
    page = visitor.follow(there)
    assert page.status == 200
    assert "shop-web-1" in page.text and "sftp.example.com" in page.text
    assert RAW_PASSWORD not in html.unescape(page.page)
    revealed = visitor.send(page.form(f"{CONNECT}/reveal"))
    assert RAW_PASSWORD in html.unescape(revealed.page)
    key = visitor.send(page.form(f"{CONNECT}/key", form="openssh"))
    assert key.page == PRIVATE_KEY
    # Nothing that an operator does is offered, and the first page is theirs.
    for what in ("renew-key", "/password", "links", "/sessions", "/log"):
        assert f'{what}"' not in page.page, what
    assert visitor.get("/").header("location") == CONNECT
    # It is used up.
    other = Client(site)
    again = open_link(other, shown)
    assert again.status == 403 and "opens nothing" in again.text


def test_who_opened_a_link_gets_no_further(operator: Client, visitor: Client) -> None:
    open_link(visitor, address(make(operator)))
    for page in ("/sessions", "/log", "/status", WEB, f"{WEB}/links", f"{WEB}/password", f"{WEB}/renew-key"):
        assert visitor.get(page).status in (403, 404), page
    other = paths.instance(sample.DB)
    assert visitor.get(f"{other}/connect").status in (403, 404)
    csrf = visitor.get(CONNECT).form(f"{CONNECT}/key", form="openssh").fields["csrf"]
    for form in (f"{WEB}/renew-key", f"{WEB}/links/make", f"{WEB}/lock", f"{other}/connect/reveal"):
        answer = visitor.post(form, {"csrf": csrf, "life": "1d"})
        assert answer.status in (403, 404), form


@pytest.mark.parametrize("wrong", ["", "   ", "#", "link", "http://x/link#nonsense", "x" * 4097, "a" * 600])
def test_what_is_no_link_is_told_so(visitor: Client, wrong: str) -> None:
    answer = open_link(visitor, wrong)
    assert answer.status in (400, 403)
    assert visitor.cookies.keys() == {"hatchway-visitor"}


def test_a_passphrase_is_asked_for(operator: Client, visitor: Client) -> None:
    asked = open_link(visitor, address(make(operator, passphrase="two mice in the cellar")))
    assert asked.status == 403 and "Enter the passphrase" in asked.text
    wrong = visitor.send(asked.form("/link"), passphrase="two cats")
    assert wrong.status == 403 and "passphrase is wrong" in wrong.text
    right = visitor.send(wrong.form("/link"), passphrase="two mice in the cellar")
    assert visitor.follow(right).status == 200


def closed(visitor: Client) -> str:
    """What whoever closes the page is told, and that they are out."""
    told = visitor.follow(visitor.send(visitor.get(CONNECT).form("/sign-out")))
    assert told.form("/link").fields["token"] == "" and "Sign in" not in told.text
    assert visitor.get(CONNECT).status == 303
    return told.text


def test_who_opened_a_link_is_told_how_often_it_opens_still(operator: Client, visitor: Client) -> None:
    open_link(visitor, address(make(operator)))
    assert "This link is used up now. Copy or download what you need" in visitor.get(CONNECT).text
    text = closed(visitor)
    assert "Closed" in text and "you need another link" in text
    shown = address(make(operator, uses="3"))
    for words in ("can be opened 2 more times", "can be opened once more"):
        open_link(visitor, shown)
        assert words in visitor.get(CONNECT).text
        assert "open the link once more" in closed(visitor)
    open_link(visitor, shown)
    revealed = visitor.send(visitor.get(CONNECT).form(f"{CONNECT}/reveal"))
    assert "This link is used up now" in revealed.text
    # Nobody else is told of links.
    assert "This link" not in operator.get(f"{WEB}/connect").text


def test_who_is_out_is_not_asked_to_sign_in(operator: Client, visitor: Client, core: FakeCore) -> None:
    open_link(visitor, address(make(operator)))
    reveal = visitor.get(CONNECT).form(f"{CONNECT}/reveal")
    core.tokens.clear()
    for answer in (visitor.send(reveal), visitor.get(CONNECT)):
        told = visitor.follow(answer)
        assert "was not used for a while" in told.text and "ask whoever sent it for a new one" in told.text
    assert visitor.cookies.keys() == {"hatchway-visitor"}
    assert "Somebody shares files" in visitor.get("/link?closed=nonsense").text


def test_it_is_taken_back(operator: Client, visitor: Client, core: FakeCore) -> None:
    shown = address(make(operator, uses="5"))
    revoke = operator.get(f"{WEB}/links").form(f"{WEB}/links/revoke")
    told = operator.follow(operator.send(revoke))
    assert "is taken back" in told.text
    assert core.links == {}
    assert open_link(visitor, shown).status == 403


def test_it_begins_as_the_pages_are_called_from_outside(operator: Client, core: FakeCore) -> None:
    core.public_url = "https://files.example.org"
    assert address(make(operator)).startswith("https://files.example.org/link#")


@pytest.mark.parametrize(
    ("called", "warned"),
    [
        ("", True),  # as the test's own site is
        ("https://localhost:8022", True),
        ("https://[::1]:8022", True),
        ("https://files.example.org", False),
        ("https://192.0.2.7:8022", False),
    ],
)
def test_an_address_of_this_host_only_is_warned_of(operator: Client, core: FakeCore, called: str, warned: bool) -> None:
    core.public_url = called
    assert ("Only this host itself can open it" in make(operator).text) == warned


@pytest.mark.parametrize("fields", [{"uses": "often"}, {"uses": "-1"}, {"life": "99y"}, {"note": "x" * 500}])
def test_what_cannot_be_is_said(operator: Client, core: FakeCore, fields: dict[str, str]) -> None:
    form = operator.get(f"{WEB}/links").form(f"{WEB}/links/make")
    answer = operator.send(form, **({"life": "1d", "note": "for Berta", "passphrase": "two mice"} | fields))
    assert answer.status == 400 and 'role="alert"' in answer.page
    typed = answer.form(f"{WEB}/links/make").fields
    assert typed["note"] == fields.get("note", "for Berta") and typed["uses"] == fields.get("uses", "1")
    assert "two mice" not in answer.page
    if "life" not in fields:
        assert '<option value="1d" selected>' in answer.page
    assert core.links == {}


def test_how_short_a_passphrase_may_be_is_said_before(operator: Client) -> None:
    for page, names in ((f"{WEB}/links", ["passphrase"]), (f"{WEB}/connect", ["passphrase"]),
                        (f"{WEB}/password", ["password", "again"])):  # fmt: skip
        answer = operator.get(page)
        assert f"{CHARS_MIN} characters" in answer.text
        least = {fields.get("name"): fields.get("minlength") for tag, fields in answer.read.tags if tag == "input"}
        assert [least[name] for name in names[:1]] == [str(CHARS_MIN)], page


def test_who_must_wait_is_told(operator: Client, visitor: Client, core: FakeCore) -> None:
    shown = address(make(operator))
    core.wait = "too many wrong attempts from your address: try again in 17 s"
    answer = open_link(visitor, shown)
    assert (answer.status, answer.header("retry-after")) == (429, "17")
    core.wait = ""
    assert visitor.send(answer.form("/link")).status == 303


def test_a_form_of_another_site_opens_nothing(operator: Client, visitor: Client, core: FakeCore) -> None:
    shown = address(make(operator))
    form = visitor.get("/link").form("/link")
    elsewhere = visitor.post("/link", form.fields | {"token": shown}, {"Sec-Fetch-Site": "cross-site"})
    assert elsewhere.status == 403
    assert visitor.post("/link", {"token": shown}).status == 403
    assert all(link.uses == 0 for link, _ in core.links.values())


def test_whoever_was_signed_in_is_told_and_signed_out(operator: Client, core: FakeCore) -> None:
    shown = address(make(operator))
    assert "signs you out" in operator.get("/link").text
    there = open_link(operator, shown)
    assert operator.follow(there).status == 200
    assert [one.kind for one in core.tokens.values()] == [ViewerKind.LINK]
