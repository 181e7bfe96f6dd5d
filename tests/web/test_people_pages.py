"""People's pages without a script: what they see of their own, what operators do about them, and who gets nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from tests import figures
from tests.web import sample
from tests.web.browsing import Client
from tests.web.core import NAME, PASSWORD, PERSON, PERSONS_PASSWORD, PRIVATE_KEY, RAW_PASSWORD, FakeCore
from tests.web.test_links import address, make, open_link
from tests.web.test_pages import last, sent
from tests.web.test_security import FORMS, PAGES, WEB

from hatchway.errors import HostError, UnfinishedError
from hatchway.model import InstanceKey, Mode, Ownership
from hatchway.printable import escaped
from hatchway.web import paths
from hatchway.wire import entry, people
from hatchway.wire.admin import Access, Show
from hatchway.wire.entry import KeyForm, PasswordKind
from hatchway.wire.host import VolumeSize
from hatchway.wire.web import ChangePassword

ANNA = "/people/anna"
OPERATORS_PAGES = (
    *PAGES[1:], "/people", "/add-person", ANNA, f"{ANNA}/connect", f"{ANNA}/password", f"{ANNA}/renew-key",
    f"{ANNA}/remove", f"{ANNA}/revoke-all", f"{ANNA}/share", f"{ANNA}/share/shop/web/1", "/people/nobody",
    "/instances/no/such/1", "/log?instance=person%3Aanna",
)  # fmt: skip
OPERATORS_FORMS = (
    *FORMS, "/add-person", f"{ANNA}/share/shop/web/1",
    *(
        f"{ANNA}/{what}"
        for what in (
            "change", "revoke", "revoke-all", "remove", "connect/reveal", "connect/key", "connect/file", "renew-key",
            "password/reset", "password/set", "password/remove", "keys/add", "keys/remove", "conditions", "lock",
            "unlock", "sessions/end",
        )
    ),
)  # fmt: skip
OWN_PAGES = ("/me", "/me/connect", "/me/password", "/me/renew-key", "/me/log")
OWN_FORMS = tuple(
    f"/me/{what}"
    for what in (
        "password", "connect/reveal", "connect/key", "connect/file", "renew-key", "keys/add", "keys/remove",
        "sessions/end",
    )
)  # fmt: skip


@pytest.fixture
def anna(site: str) -> Client:
    """A person who has signed in."""
    client = Client(site)
    assert client.sign_in(PERSON, PERSONS_PASSWORD).header("location") == "/me"
    return client


def token(client: Client, page: str = "/me") -> str:
    """The token of her forms."""
    return client.get(page).form("/sign-out").fields["csrf"]


# --- what is theirs -------------------------------------------------------------------------------------------------


def test_own_page(anna: Client) -> None:
    answer = anna.get("/me")
    text = " ".join(answer.text.split())
    assert "Hello, Anna Berg" in text and "3 of 4 volumes can be reached now" in text
    assert "/shop-web-1/srv/uploads" in text and "web #1 in shop" in text and "this folder only" in text
    assert "340 MiB used of 924.7 MiB usable" in text and "read-only" in text and "of the whole volume" in text
    assert "Not to be had now: another volume stands there" in text
    assert "198.51.100.4" in text and "192.0.2.17" not in text
    assert "key added" in text and "rule 2 of shop.toml" not in text
    assert "/me/connect" in answer.read.links
    ours = [link for link in answer.read.links if link.startswith("/") and not link.startswith("/me")]
    assert ours == ["/"], "nothing leads where they may not go"
    assert {attributes.get("action") for tag, attributes in answer.read.tags if tag == "form"} == {
        "/sign-out", "/me/keys/add", "/me/keys/remove", "/me/sessions/end",
    }  # fmt: skip


def test_own_page_of_nothing(site: str, core: FakeCore) -> None:
    client = Client(site)
    client.sign_in("bert", PERSONS_PASSWORD)
    text = client.get("/me").text
    assert "Hello, bert" in text and "Nothing is shared with you yet" in text


def test_who_signs_in_gets_to_what_is_theirs(site: str) -> None:
    for name, password, wanted, there in (
        (PERSON, PERSONS_PASSWORD, "/", "/me"),
        (PERSON, PERSONS_PASSWORD, "/sessions", "/me"),
        (PERSON, PERSONS_PASSWORD, "/me/log", "/me/log"),
        (NAME, PASSWORD, "/me", "/"),
        (NAME, PASSWORD, "/people", "/people"),
    ):
        client = Client(site)
        form = client.get(paths.query("/sign-in", next=wanted)).form("/sign-in")
        assert client.send(form, name=name, password=password).header("location") == there
        assert client.get(f"/sign-in?next={wanted}").header("location") == there
    assert client.get("/").status == 200
    client = Client(site)
    client.sign_in(PERSON, PERSONS_PASSWORD)
    assert client.get("/").header("location") == "/me"


def test_own_connection(anna: Client, core: FakeCore) -> None:
    text = anna.get("/me/connect").text
    for value in ("sftp.example.com", "2022", "anna", *(key.fingerprint for key in sample.HOST_KEYS)):
        assert value in text
    assert RAW_PASSWORD not in text and core.keys[0].fingerprint in text
    revealed = sent(anna, "/me/connect", "/me/connect/reveal")
    assert last_asked(core) == Show(instance="person:anna", secrets=True)
    assert RAW_PASSWORD in revealed.text
    key = sent(anna, "/me/connect", "/me/connect/key", {"form": "openssh"})
    assert key.body.decode() == PRIVATE_KEY
    assert key.header("content-disposition") == 'attachment; filename="id_container-anna"'
    ppk = sent(anna, "/me/connect", "/me/connect/key", {"form": "ppk"}, passphrase="geheim")
    assert last(core) == entry.ExportKey("person:anna", KeyForm.PPK, "geheim")
    assert ppk.header("content-disposition") == 'attachment; filename="id_container-anna.ppk"'
    for kind in ("filezilla", "ssh-config", "rclone", "known-hosts"):
        file = sent(anna, "/me/connect", "/me/connect/file", {"kind": kind})
        assert (file.header("content-disposition") or "").startswith("attachment"), kind


def last_asked(core: FakeCore) -> object:
    return core.calls[-1][1]


def test_own_keys_and_sessions(anna: Client, core: FakeCore) -> None:
    answer = sent(anna, "/me/renew-key", "/me/renew-key")
    assert last(core) == entry.RenewKey(instance="person:anna")
    assert "There is a new key" in answer.text
    sent(anna, "/me", "/me/keys/add", public="ssh-ed25519 AAAA anna@home")
    assert last(core) == entry.AddKey(instance="person:anna", public="ssh-ed25519 AAAA anna@home")
    added = core.keys[-1].fingerprint
    sent(anna, "/me", "/me/keys/remove", {"key": added})
    assert last(core) == entry.RemoveKey(instance="person:anna", key=added)
    answer = sent(anna, "/me", "/me/sessions/end", {"session": "f7a8b9"})
    assert last(core) == entry.Kick(instance="person:anna", sessions=("f7a8b9",))
    assert "The session has ended" in answer.text and "Nobody is connected" in answer.text


def test_own_log(anna: Client, core: FakeCore) -> None:
    answer = anna.get("/me/log")
    assert "key added" in answer.text and "rule 2 of shop.toml" not in answer.text
    # Whoever is asked about: it is their own.
    for query in ("?instance=shop%2Fweb%2F1", "?of=shop~2Fweb~2F1&instance=bert", "?instance=&page=1"):
        anna.get(f"/me/log{query}")
        assert getattr(last_asked(core), "instance", "") == "person:anna"
    refused = anna.get("/me/log?kind=refused").text
    assert "wrong password" in refused and "key added" not in refused
    core.events = [
        msgspec.structs.replace(sample.events_of_anna()[0], id=n, at=sample.NOW + n, what=f"event {n}.")
        for n in range(250)
    ]
    following = [
        attributes["href"] for tag, attributes in anna.get("/me/log").read.tags if attributes.get("rel") == "next"
    ]
    assert following == ["/me/log?page=2"]


def test_own_password(anna: Client, core: FakeCore, site: str) -> None:
    elsewhere = Client(site)
    elsewhere.sign_in(PERSON, PERSONS_PASSWORD)
    page = "/me/password"
    answer = sent(anna, page, page, current="wrong", password="long enough", again="long enough")
    assert answer.status == 403 and "The current password is wrong" in answer.text
    assert isinstance(last(core), ChangePassword)
    for fields, told in (
        ({"current": PERSONS_PASSWORD, "password": "a long one", "again": "another"}, "are not the same"),
        ({"current": "", "password": "a long one", "again": "a long one"}, "Enter your current password"),
        ({"current": PERSONS_PASSWORD, "password": "short", "again": "short"}, "at least 8 characters"),
    ):
        answer = sent(anna, page, page, None, **fields)
        assert answer.status == 400 and told in answer.text
        assert PERSONS_PASSWORD not in answer.page
    core.wait = "too many wrong attempts from your address: try again in 7 s"
    answer = sent(anna, page, page, current=PERSONS_PASSWORD, password="a long one", again="a long one")
    assert answer.status == 429 and "try again in 7 s" in answer.text
    core.wait = ""
    assert core.persons_password == PERSONS_PASSWORD
    answer = sent(anna, page, page, current=PERSONS_PASSWORD, password="a long one", again="a long one")
    assert "Your password is changed. You stay signed in here" in answer.text
    assert "a long one" not in answer.page and core.person_kinds["anna"] is PasswordKind.HASHED
    assert anna.get("/me").status == 200
    assert elsewhere.get("/me").status == 303
    assert elsewhere.sign_in(PERSON, PERSONS_PASSWORD).status == 403


# --- and nothing else -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", OPERATORS_PAGES)
def test_operators_pages_are_not_for_people(anna: Client, core: FakeCore, page: str) -> None:
    answer = anna.get(page)
    # The same for what is there and what is not, before the core is asked anything.
    assert answer.status == 403 and "This page is not for you" in answer.text
    assert not core.calls


@pytest.mark.parametrize("form", OPERATORS_FORMS)
def test_operators_forms_are_not_for_people(anna: Client, core: FakeCore, form: str) -> None:
    fields = {"csrf": token(anna), "instance": "shop~2Fweb~2F1", "volume": paths.coded("/srv/uploads"), "mode": "rw"}
    before = len(core.calls)
    assert anna.post(form, fields).status == 403
    assert len(core.calls) == before


def test_instances_that_are_and_are_not_look_the_same(anna: Client) -> None:
    there, not_there = anna.get(WEB), anna.get("/instances/no/such/1")
    assert (there.status, there.page) == (not_there.status, not_there.page)
    assert anna.get(ANNA).page == anna.get("/people/nobody").page


@pytest.mark.parametrize("page", OWN_PAGES)
def test_peoples_pages_are_not_for_operators(operator: Client, core: FakeCore, page: str) -> None:
    assert operator.get(page).status == 403
    assert not core.calls


def test_who_opened_a_link_sees_nothing_of_people(operator: Client, visitor: Client, core: FakeCore) -> None:
    open_link(visitor, address(make(operator)))
    before = len(core.calls)
    for page in ("/people", ANNA, f"{ANNA}/connect", *OWN_PAGES):
        assert visitor.get(page).status == 403, page
    for form in ("/add-person", f"{ANNA}/revoke", f"{ANNA}/connect/reveal", *OWN_FORMS):
        assert visitor.post(form, {"csrf": ""}).status == 403, form
    assert len(core.calls) == before


@pytest.mark.parametrize("form", OWN_FORMS)
def test_own_forms_need_a_session_and_their_token(
    anna: Client, operator: Client, visitor: Client, core: FakeCore, form: str
) -> None:
    assert visitor.post(form, {}).status == 303
    for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": token(operator, "/sessions")}):
        before = len(core.calls)
        assert anna.post(form, fields).status == 403
        assert len(core.calls) == before
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert anna.post(form, {"csrf": token(anna)}, headers).status == 403
    before = len(core.calls)
    assert operator.post(form, {"csrf": token(operator, "/sessions")}).status == 403
    assert [type(request).__name__ for _, request in core.calls[before:]] == ["ListSessions"]


@pytest.mark.parametrize("form", [form for form in OPERATORS_FORMS if form.startswith((ANNA, "/add"))])
def test_operators_forms_about_people_need_their_token(operator: Client, core: FakeCore, form: str) -> None:
    for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}):
        assert operator.post(form, fields).status == 403
    assert not core.calls


def test_nothing_of_anybody_else_by_what_a_form_says(anna: Client, core: FakeCore) -> None:
    fields = {
        "csrf": token(anna), "instance": "person:clara", "login": "clara", "name": "clara", "session": "a1b2c3",
        "key": "SHA256:x", "public": "ssh-ed25519 AAAA", "form": "openssh", "kind": "ssh-config",
    }  # fmt: skip
    before = len(core.calls)
    for form in OWN_FORMS:
        anna.post(f"{form}?login=clara&instance=person%3Aclara", fields)
    asked = {
        getattr(request, "instance", "person:anna")
        for _, request in core.calls[before:]
        if not isinstance(request, ChangePassword)
    }
    assert asked == {"person:anna"}
    assert {one.id for one in core.sessions} == {"a1b2c3", "d4e5f6", "f7a8b9"}, "another's session goes on"
    assert anna.get("/me/clara").status == 404
    assert "clara" not in anna.get("/me").text


def test_who_is_not_there_any_more(anna: Client, core: FakeCore) -> None:
    del core.people["anna"]
    assert anna.get("/me").status == 404
    core.tokens.clear()
    assert (anna.get("/me").header("location") or "").startswith("/sign-in")


@pytest.mark.parametrize("page", ["/me", "/me/connect", "/people", ANNA, f"{ANNA}/share/shop/web/1"])
def test_headers(anna: Client, operator: Client, page: str) -> None:
    answer = (anna if page.startswith("/me") else operator).get(page)
    assert answer.status == 200 and answer.header("cache-control") == "no-store"
    assert "unsafe" not in (answer.header("content-security-policy") or "unsafe")
    for tag, attributes in answer.read.tags:
        assert tag != "style" and not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")


# --- operators about people -----------------------------------------------------------------------------------------


def test_people(operator: Client, core: FakeCore) -> None:
    answer = operator.get("/people")
    assert "3 with a login of their own" in answer.text and ANNA in answer.read.links
    for target, logins in (
        ("/people?q=berg", ["anna"]), ("/people?q=UPLOADS+shop", ["anna", "clara"]), ("/people?q=nobody", []),
        ("/people?state=sessions", ["anna"]), ("/people?state=nothing", ["bert"]),
        ("/people?state=care", ["anna", "clara"]), ("/people?state=nonsense&page=x", ["anna", "bert", "clara"]),
    ):  # fmt: skip
        links = [link for link in operator.get(target).read.links if link.startswith("/people/")]
        assert links == [f"/people/{login}" for login in logins], target
    core.people = {}
    assert "Nobody yet" in operator.get("/people").text


def test_five_hundred_people(operator: Client, core: FakeCore) -> None:
    core.people = {one.login: one for one in sample.many_people(500)}
    seen: set[str] = set()
    longest, target = 0.0, "/people"
    while target:
        began = time.perf_counter()
        answer = operator.get(target)
        longest = max(longest, time.perf_counter() - began)
        here = {link for link in answer.read.links if link.startswith("/people/")}
        assert len(here) <= 100 and not here & seen
        seen |= here
        following = [attributes["href"] for _, attributes in answer.read.tags if attributes.get("rel") == "next"]
        target = following[0] or "" if following else ""
    assert len(seen) == 500
    began = time.perf_counter()
    assert "15 of 500" in operator.get("/people?q=person+number+49").text
    figures.note(f"web, 500 people: list {longest:.3f} s at most, search {time.perf_counter() - began:.3f} s")


def test_person(operator: Client, core: FakeCore) -> None:
    answer = operator.get(ANNA)
    text = " ".join(answer.text.split())
    assert "Anna Berg" in text and "/shop-web-1/srv/uploads" in text and "Suspended: another volume" in text
    assert WEB in answer.read.links and "/log?instance=person%3Aanna" in answer.read.links
    assert "198.51.100.4" in text and "192.0.2.17" not in text
    assert "of its own volumes" not in text and "keeps in a volume" not in text
    assert operator.get("/log?instance=person%3Aanna").status == 200
    assert operator.get("/people/nobody").status == 404
    assert operator.get("/people/No-Login").status == 404
    assert operator.get(f"{ANNA}/connect").status == 200


def test_a_volume_says_with_whom_it_is_shared(operator: Client) -> None:
    answer = operator.get(WEB)
    assert "Shared with anna, clara" in " ".join(answer.text.split())
    assert {"/people/anna", "/people/clara"} <= set(answer.read.links)


def test_a_persons_session_leads_to_the_person(operator: Client) -> None:
    assert ANNA in operator.get("/sessions").read.links


def test_add(operator: Client, core: FakeCore) -> None:
    answer = sent(operator, "/add-person", "/add-person", login="dora", full_name=" Dora Ö. ")
    assert last(core) == people.AddPerson(login="dora", full_name="Dora Ö.")
    assert "dora is added" in answer.text and "Nothing yet" in answer.text
    answer = sent(operator, "/add-person", "/add-person", login="dora", full_name='Dora "the other"')
    assert answer.status == 400 and "dora is taken" in answer.text.lower()
    typed = answer.form("/add-person").fields
    assert (typed["login"], typed["full_name"]) == ("dora", 'Dora "the other"')
    assert "Enter a login" in sent(operator, "/add-person", "/add-person", login=" ").text
    core.new_password = "made-just-now"
    answer = sent(operator, "/add-person", "/add-person", login="add")
    assert answer.status == 200 and "made-just-now" in answer.text
    assert "made-just-now" not in operator.get("/people/add").page


def test_share(operator: Client, core: FakeCore) -> None:
    page = "/people/bert/share"
    assert f"{page}/shop/web/1" in operator.get(page).read.links
    assert operator.get(f"{page}?q=postgres").read.links.count(f"{page}/shop/db/1") == 1
    assert "Nothing fits" in operator.get(f"{page}?q=nothing-at-all").text
    there = f"{page}/shop/web/1"
    form = operator.get(there)
    assert "/etc/shop cannot be shared" in " ".join(form.text.split())
    answer = sent(operator, there, there, volume=paths.coded("/srv/uploads"), mode="rw", folder="a/b ")
    assert last(core) == people.GrantPerson(
        login="bert", instance="shop/web/1", volumes=("/srv/uploads",), folder="a/b"
    )
    assert "/srv/uploads, only a/b, of shop/web/1 is shared with bert" in answer.text
    assert core.people["bert"].volumes[0].folder == "a/b"
    answer = sent(operator, there, there, mode="rw", folder="a/b")
    assert answer.status == 400 and "Choose a volume" in answer.text
    assert (answer.form(there).fields["mode"], answer.form(there).fields["folder"]) == ("rw", "a/b")
    themes = paths.coded("/srv/themes")
    fields = {"csrf": token(operator, there), "volume": themes, "mode": "nonsense"}
    assert "choose read-only" in operator.post(there, fields).text.lower()
    answer = operator.post(there, fields | {"mode": "rw", "folder": "x" * 5000})
    assert answer.status == 400 and "'folder' is too long" in answer.text
    assert (answer.form(there).fields["volume"], answer.form(there).fields["folder"]) == (themes, "")
    assert "has it already" in operator.get(there).text
    assert operator.get(f"{page}/no/such/1").status == 404
    assert operator.get("/people/nobody/share/shop/web/1").status == 404


def test_what_they_have_is_what_is_chosen_first(operator: Client, core: FakeCore) -> None:
    def first(login: str, there: str) -> tuple[str | None, str | None, str | None]:
        fields = operator.get(f"/people/{login}/share/{there}").form(f"/people/{login}/share/{there}").fields
        return fields.get("volume"), fields.get("mode"), fields.get("folder")

    # Of several volumes, some with writing: neither is taken away or given by not looking.
    assert first("anna", "shop/web/1") == (None, None, "")
    assert first("bert", "shop/web/1") == (None, "ro", "")
    assert first("anna", "shop/db/1") == (None, "ro", "")
    one = paths.coded("/srv/uploads")
    assert first("bert", "shop/web/2") == (one, "ro", "")
    given = sample.person_volume(sample.HASHED, "/srv/uploads", folder="a/b")
    core.people["bert"] = msgspec.structs.replace(core.people["bert"], volumes=(given,))
    assert first("bert", "shop/web/2") == (one, "rw", "a/b")
    there = "/people/bert/share/shop/web/2"
    answer = operator.follow(operator.send(operator.get(there).form(there)))
    assert last(core) == people.GrantPerson(
        login="bert", instance="shop/web/2", volumes=("/srv/uploads",), folder="a/b"
    )
    assert "is shared with bert, to read and write" in answer.text


def test_from_an_instance_to_whom_to_share_it_with(operator: Client, core: FakeCore) -> None:
    page = f"{WEB}/people"
    assert page in operator.get(WEB).read.links
    assert f"{paths.instance(sample.FRESH)}/people" in operator.get(paths.instance(sample.FRESH)).read.links
    mail = paths.instance(InstanceKey("intranet", "mail", 1))
    assert f"{mail}/people" not in operator.get(mail).read.links, "it has no volume"
    answer = operator.get(page)
    for login in ("anna", "bert", "clara"):
        assert f"/people/{login}/share/shop/web/1" in answer.read.links
    found = [link for link in operator.get(f"{page}?q=berg").read.links if "/share/" in link]
    assert found == ["/people/anna/share/shop/web/1"]
    assert "Nobody fits" in operator.get(f"{page}?q=nobody-at-all").text
    assert operator.get(f"{paths.instance(InstanceKey('no', 'such', 1))}/people").status == 404
    core.people = {one.login: one for one in sample.many_people(80)}
    assert "30 more" in operator.get(page).text
    core.people = {}
    assert "Nobody yet" in operator.get(page).text


def test_a_folder_that_is_not_there(operator: Client, anna: Client, core: FakeCore) -> None:
    core.missing.add("photos/none")
    there = f"{ANNA}/share/shop/web/1"
    told = sent(operator, there, there, volume=paths.coded("/srv/uploads"), mode="rw", folder="photos/none")
    assert "/srv/uploads: there is no folder photos/none in it now. They are refused there" in told.text
    for client, page, whom in ((operator, ANNA, "they are"), (anna, "/me", "you are")):
        answer = client.get(page)
        text = " ".join(answer.text.split())
        assert f"There is no folder photos/none in it now: {whom} refused there" in text and "not there" in text
        assert "/shop-web-1/srv/uploads/photos/none" not in text, "nobody finds it there"
        assert answer.page.count('class="file-link"') == 2
    assert "2 of 4 volumes can be reached now" in anna.get("/me").text
    assert "no such folder" in operator.get("/people?state=care&q=anna").text
    uploads = {"instance": paths.coded("shop/web/1"), "volume": paths.coded("/srv/uploads")}
    told = operator.follow(operator.send(operator.get(ANNA).form(f"{ANNA}/change", **uploads), mode="ro"))
    assert "They are refused there until that changes" in told.text
    core.missing.clear()
    told = sent(operator, ANNA, f"{ANNA}/change", uploads, mode="rw")
    assert "refused there" not in told.text and "/shop-web-1/srv/uploads/photos/none" in told.text


def test_change_and_revoke(operator: Client, core: FakeCore) -> None:
    uploads = {"instance": paths.coded("shop/web/1"), "volume": paths.coded("/srv/uploads")}
    volumes = tuple(
        msgspec.structs.replace(one, ownership=Ownership("1000:1000", 0o27)) for one in core.people["anna"].volumes
    )
    core.people["anna"] = msgspec.structs.replace(core.people["anna"], volumes=volumes)
    form = operator.get(ANNA).form(f"{ANNA}/change", **uploads)
    answer = operator.follow(operator.send(form, mode="ro"))
    assert last(core) == people.GrantPerson(
        login="anna", instance="shop/web/1", volumes=("/srv/uploads",), read_only=True,
        ownership=Ownership("1000:1000", 0o27),
    )  # fmt: skip
    assert "/srv/uploads of shop/web/1 is shared with anna, read-only" in answer.text
    # The folder stays one, also where it is given again.
    core.know([*core.instances.values(), sample.instance(volumes[0].key, "blog-web-1", ())])
    blog = {"instance": paths.coded("blog/web/1"), "volume": paths.coded("/uploads")}
    operator.send(operator.get(ANNA).form(f"{ANNA}/change", **blog), mode="rw")
    request = last(core)
    assert isinstance(request, people.GrantPerson) and (request.folder, request.read_only) == ("photos/2026", False)
    answer = sent(operator, ANNA, f"{ANNA}/revoke", uploads)
    assert last(core) == people.RevokePerson(login="anna", instance="shop/web/1", volumes=("/srv/uploads",))
    assert "is no longer shared with anna" in answer.text
    stale = {"csrf": token(operator, ANNA), **uploads}
    assert "is not shared with anna any more" in operator.follow(operator.post(f"{ANNA}/revoke", stale)).text
    page = operator.get(f"{ANNA}/revoke-all")
    assert "photos/2026 of blog/web/1" in page.text
    answer = sent(operator, f"{ANNA}/revoke-all", f"{ANNA}/revoke-all")
    assert core.people["anna"].volumes == () and "Nothing is shared with anna any more" in answer.text


def test_credentials_and_conditions_of_a_person(operator: Client, core: FakeCore) -> None:
    answer = sent(operator, f"{ANNA}/password", f"{ANNA}/password/reset", kind="hashed")
    assert last(core) == entry.ResetPassword(instance="person:anna", kind=PasswordKind.HASHED)
    assert core.password in answer.text and f"{ANNA}/connect" in answer.read.links
    sent(operator, ANNA, f"{ANNA}/conditions", allowed_from="10.0.0.0/8", expires="", sessions_max="3")
    request = last(core)
    assert isinstance(request, entry.SetConditions) and request.instance == "person:anna"
    sent(operator, ANNA, f"{ANNA}/lock", why="on leave")
    assert last(core) == entry.Lock(instance="person:anna", why="on leave")
    sent(operator, ANNA, f"{ANNA}/unlock")
    assert last(core) == entry.Unlock("person:anna")
    sent(operator, ANNA, f"{ANNA}/keys/add", public="ssh-ed25519 AAAA x")
    assert last(core) == entry.AddKey(instance="person:anna", public="ssh-ed25519 AAAA x")
    sent(operator, f"{ANNA}/renew-key", f"{ANNA}/renew-key")
    assert last(core) == entry.RenewKey(instance="person:anna")
    sent(operator, ANNA, f"{ANNA}/sessions/end", {"session": "f7a8b9"})
    assert last(core) == entry.Kick(instance="person:anna", sessions=("f7a8b9",))


def test_remove(operator: Client, core: FakeCore) -> None:
    page = operator.get(f"{ANNA}/remove")
    text = " ".join(page.text.split())
    assert "4 volumes" in text and "1 is open now" in text and "Nobody gets the login anna again" in text
    assert "anna" in core.people
    answer = sent(operator, f"{ANNA}/remove", f"{ANNA}/remove")
    assert last(core) == people.RemovePerson("anna")
    assert "anna is removed" in answer.text and "2 with a login" in answer.text


def test_parts_that_fail_do_not_take_the_page_along(anna: Client, operator: Client, core: FakeCore) -> None:
    answering: Callable[[object], object] = core._answer

    def fails(request: object) -> object:
        if isinstance(request, entry.ListKeys | entry.ListSessions):
            raise HostError("not now")
        return answering(request)

    core._answer = fails  # type: ignore[method-assign]
    for client, page in ((anna, "/me"), (operator, ANNA)):
        answer = client.get(page)
        assert answer.status == 200 and "Not now." in answer.text and "/srv/uploads" in answer.text


@pytest.mark.parametrize("number", range(1, len(sample.HOSTILE) + 1))
def test_hostile_names_are_data(operator: Client, anna: Client, core: FakeCore, number: int) -> None:
    one = next(one for one in core.instances.values() if one.login == f"hostile-{number}")
    name, path = sample.HOSTILE[number - 1], one.volumes[0].path
    volume = sample.person_volume(one.key, path, Mode.READ_WRITE, folder=name.strip("/"), name=name)
    suspended = sample.person_volume(
        one.key, f"/2/{name}", Mode.READ_ONLY, access=Access.SUSPENDED, session_path=None, problem=f"as {name} is"
    )
    sized = msgspec.structs.replace(volume, path=f"/3/{name}", size=VolumeSize(problem=f"of {name}"))
    person = msgspec.structs.replace(core.people["anna"], full_name=name, volumes=(volume, suspended, sized))
    core.people["anna"] = person
    there = f"{ANNA}/share{paths.instance(one.key).removeprefix('/instances')}"
    seen = [
        (operator, page) for page in ("/people", ANNA, f"{ANNA}/share", there, f"{ANNA}/remove", f"{ANNA}/revoke-all")
    ]
    for client, page in [*seen, (anna, "/me"), (anna, "/me/connect")]:
        answer = client.get(page)
        assert answer.status == 200, page
        assert "<script>alert" not in answer.page and "<svg/onload" not in answer.page
        assert "\u202e" not in answer.page and "\r" not in answer.page and "49{%" not in answer.page
        for tag, attributes in answer.read.tags:
            assert not [key for key in attributes if key.startswith("on")]
            assert tag != "script" or attributes.get("src")
            link = attributes.get("href") or ""
            assert link.startswith(("/", "#", "sftp://", "https://")) or not link
    assert there in operator.get(f"{ANNA}/share").read.links
    assert escaped(name)[:200] in anna.get("/me").text
    fields = {"instance": paths.coded(str(one.key)), "volume": paths.coded(path)}
    operator.send(operator.get(ANNA).form(f"{ANNA}/revoke", **fields))
    assert last(core) == people.RevokePerson(login="anna", instance=str(one.key), volumes=(path,))


def test_what_is_not_taken_away_from_one_instance_is_from_the_others(operator: Client, core: FakeCore) -> None:
    core.unfinished = UnfinishedError("access is taken away in the registry, but the host did not take it: it is away")
    answer = sent(operator, f"{ANNA}/revoke-all", f"{ANNA}/revoke-all")
    asked = {request.instance for _, request in core.calls if isinstance(request, people.RevokePerson)}
    assert len(asked) > 1 and core.people["anna"].volumes == ()
    for instance in asked:
        assert f"{instance}: Access is taken away in the registry" in answer.text
    assert "Nothing is shared" not in answer.text


def test_who_is_removed_but_not_from_the_host_yet_is_told_of(operator: Client, core: FakeCore) -> None:
    core.unfinished = UnfinishedError("anna is removed from the registry, but the host did not take it: it is away")
    answer = sent(operator, f"{ANNA}/remove", f"{ANNA}/remove")
    assert answer.status == 200 and "did not take it" in answer.text
    assert "anna" not in core.people
