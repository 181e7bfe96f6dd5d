"""Every page without a script: what is on it, and what its forms ask of the core."""

from __future__ import annotations

import re
import time

import msgspec
import pytest
from tests import figures
from tests.web import sample
from tests.web.browsing import Answer, Client
from tests.web.core import RAW_PASSWORD, FakeCore

from hatchway.model import EventKind, InstanceKey, InstanceState, Ownership
from hatchway.web import paths
from hatchway.web.mending import mend
from hatchway.web.whose import of_instance
from hatchway.wire import admin, entry, people
from hatchway.wire.entry import KeyForm, PasswordKind

WEB = paths.instance(sample.WEB)
HASHED = paths.instance(sample.HASHED)


def last(core: FakeCore) -> object:
    """The last request that is not one of those that every page makes."""
    looking = admin.ListInstances | admin.Show | entry.ListKeys | entry.ListSessions | admin.ReadLog
    looking |= entry.ShowConditions | people.ListPeople
    return next(request for _, request in reversed(core.calls) if not isinstance(request, looking))


def sent(client: Client, page: str, action: str, match: dict[str, str] | None = None, **fields: str) -> Answer:
    """The form of `page` with this action, filled in and sent, and where that leads to."""
    form = client.get(page).form(action, **(match or {}))
    answer = client.send(form, **fields)
    return client.follow(answer) if answer.status == 303 else answer


def test_tree(operator: Client, core: FakeCore) -> None:
    core.know(sample.plain())
    answer = operator.get("/")
    assert WEB in answer.read.links and f"{WEB}/connect" in answer.read.links
    assert f"{paths.instance(sample.FRESH)}/connect" not in answer.read.links
    assert "7 instances" in answer.text
    for target, count in (
        ("/?q=uploads", 2), ("/?q=SHOP+uploads+web-2", 1), ("/?q=nothing", 0), ("/?state=running", 3),
        ("/?state=gone", 1), ("/?sharing=care", 2), ("/?sharing=sessions", 1), ("/?environment=intranet", 2),
        ("/?environment=~~&q=postgres", 1), ("/?state=nonsense&page=99999", 7),
    ):  # fmt: skip
        found = [
            link for link in operator.get(target).read.links if link.count("/") == 4 and link.startswith("/instances/")
        ]
        assert len(found) == count, target


def test_tree_of_nothing(operator: Client, core: FakeCore) -> None:
    core.know([])
    assert "No instances yet" in operator.get("/").text


def test_two_thousand_instances(operator: Client, core: FakeCore) -> None:
    core.know(sample.plain() + sample.many(2000))
    seen: set[str] = set()
    times = []
    target = "/"
    while True:
        began = time.perf_counter()
        answer = operator.get(target)
        times.append(time.perf_counter() - began)
        here = {link for link in answer.read.links if link.startswith("/instances/") and link.count("/") == 4}
        assert len(here) <= 100 and not here & seen
        seen |= here
        following = [
            attributes["href"] for tag, attributes in answer.read.tags if tag == "a" and attributes.get("rel") == "next"
        ]
        if not following:
            break
        target = following[0] or ""
    assert len(seen) == len(core.instances)
    began = time.perf_counter()
    assert "11 of 2,007 instances" in operator.get("/?q=data_199").text
    search = time.perf_counter() - began
    began = time.perf_counter()
    operator.get(paths.instance(InstanceKey("team-050", "service-2", 1)))
    one = time.perf_counter() - began
    figures.note(f"web, 2,007 instances: list {max(times):.3f} s at most, search {search:.3f} s, instance {one:.3f} s")


def test_instance(operator: Client) -> None:
    text = " ".join(operator.get(WEB).text.split())
    assert "340 MiB used of 924.7 MiB usable · 1 GiB nominal" in text
    assert "read and write" in text and "shop_uploads · local" in text
    assert "Cannot be shared: /srv/shop/etc is in none of the directories" in text
    assert "SHA256:Zk3w1aQ9bV8mJrWcV6xYH2mV8sB0L3pTnG5uE7dC1iA" in text


def test_instances_without_login(operator: Client) -> None:
    page = paths.instance(sample.FRESH)
    assert "Nothing is shared" in operator.get(page).text
    assert "Nothing to connect to yet" in operator.get(f"{page}/connect").text


def test_volumes(operator: Client, core: FakeCore) -> None:
    cache = {"volume": paths.coded("/var/cache/shop")}
    uploads = {"volume": paths.coded("/srv/uploads")}
    answer = sent(operator, WEB, f"{WEB}/volumes/enable", cache, mode="ro")
    assert last(core) == admin.Enable(instance="shop/web/1", volumes=("/var/cache/shop",), read_only=True)
    assert "Remote access to /var/cache/shop is on, read-only." in answer.text
    sent(operator, WEB, f"{WEB}/volumes/disable", cache)
    assert last(core) == admin.Disable(instance="shop/web/1", volumes=("/var/cache/shop",))
    grant = msgspec.structs.replace(
        core.instances[sample.WEB].volumes[0].grants[0], ownership=Ownership("1000:1000", 0o27)
    )
    core._change("shop/web/1", "/srv/uploads", grants=(msgspec.structs.replace(grant, follows=True),))
    sent(operator, WEB, f"{WEB}/volumes/enable", uploads | {"mode": "ro"})
    request = last(core)
    assert isinstance(request, admin.Enable)
    assert request.read_only and request.follow and request.ownership == Ownership("1000:1000", 0o27)
    db = paths.instance(sample.DB)
    sent(operator, db, f"{db}/volumes/confirm")
    assert last(core) == admin.Confirm(instance="shop/db/1", volumes=("/var/lib/postgresql/data",))
    # What a rule gives is not taken away here.
    assert not [
        form
        for form in operator.get(db).read.forms
        if form.fields.get("volume") == "~2Fbackup" and "disable" in form.action
    ]


def test_dialog(operator: Client, core: FakeCore) -> None:
    core.problems = (entry.Hindrance("the login is locked", "hatchway unlock shop-web-1"),)
    answer = operator.get(f"{WEB}/connect")
    for value in (
        "sftp.example.com",
        "2022",
        "shop-web-1",
        "/srv/uploads",
        *(key.fingerprint for key in sample.HOST_KEYS),
    ):
        assert value in answer.text
        assert any(attributes.get("data-copy") == value for _, attributes in answer.read.tags), value
    assert "sftp://shop-web-1@sftp.example.com:2022/srv/uploads/" in answer.read.links
    assert "The login is locked." in answer.text and "hatchway unlock" not in answer.text
    assert answer.form(f"{WEB}/unlock").method == "post"
    for program in ("FileZilla", "WinSCP", "PuTTY", "OpenSSH", "rclone", "Cyberduck"):
        assert program in answer.text


def test_dialog_of_hashed_password(operator: Client) -> None:
    answer = operator.get(f"{HASHED}/connect")
    assert "type the password itself, not the hash" in answer.text
    assert not [form for form in answer.read.forms if form.action.endswith("/reveal")]


def test_dialog_while_off(operator: Client, core: FakeCore) -> None:
    for volume in core.instances[sample.HASHED].volumes:
        core._change("shop/web/2", volume.path, access=admin.Access.OFF, session_path=None)
    assert "remote access is off for every volume" in operator.get(f"{HASHED}/connect").text


def test_reveal(operator: Client) -> None:
    answer = sent(operator, f"{WEB}/connect", f"{WEB}/connect/reveal")
    assert RAW_PASSWORD in answer.text
    assert any(link.startswith("sftp://shop-web-1:correct%20horse") for link in answer.read.links)


@pytest.mark.parametrize(
    ("form", "passphrase", "name"),
    [
        ("openssh", "", "id_container-shop-web-1"),
        ("ppk", "", "id_container-shop-web-1.ppk"),
        ("ppk", "geheim", "id_container-shop-web-1.ppk"),
    ],
)
def test_key(operator: Client, core: FakeCore, form: str, passphrase: str, name: str) -> None:
    more = {"passphrase": passphrase} if passphrase else {}
    answer = sent(operator, f"{WEB}/connect", f"{WEB}/connect/key", {"form": form}, **more)
    assert answer.header("content-disposition") == f'attachment; filename="{name}"'
    assert answer.header("cache-control") == "no-store"
    assert answer.header("content-type") == "application/octet-stream"
    assert last(core) == entry.ExportKey("shop/web/1", KeyForm(form), passphrase or None)


@pytest.mark.parametrize(
    ("kind", "fields", "name", "says"),
    [
        ("filezilla", {}, "filezilla-shop-web-1.xml", "<Logontype>2</Logontype>"),
        ("filezilla", {"password": "yes"}, "filezilla-shop-web-1.xml", "<Logontype>1</Logontype>"),
        ("filezilla", {"key_dir": "C:\\Users\\me"}, "filezilla-shop-web-1.xml", "me\\id_container-shop-web-1"),
        ("ssh-config", {}, "ssh_config-shop-web-1", "IdentityFile \"~/.ssh/id_container-shop-web-1\""),
        ("rclone", {"key_dir": "/keys"}, "rclone-shop-web-1.conf", "key_file = /keys/id_container-shop-web-1"),
        ("known-hosts", {}, "known_hosts", "[sftp.example.com]:2022 ssh-ed25519 "),
    ],
)  # fmt: skip
def test_files(operator: Client, kind: str, fields: dict[str, str], name: str, says: str) -> None:
    answer = sent(operator, f"{WEB}/connect", f"{WEB}/connect/file", {"kind": kind}, **fields)
    assert answer.header("content-disposition") == f'attachment; filename="{name}"'
    assert says in answer.page


def test_files_that_cannot_be_made(operator: Client) -> None:
    answer = sent(operator, f"{WEB}/connect", f"{WEB}/connect/file", {"kind": "filezilla"}, key_dir="Downloads")
    assert "FileZilla finds a key by its whole folder only" in answer.text
    answer = sent(operator, f"{WEB}/connect", f"{WEB}/connect/file", {"kind": "rclone"}, key_dir="/$x")
    assert "is not allowed" in answer.text


def test_renew(operator: Client, core: FakeCore) -> None:
    before = core.keys[0].fingerprint
    page = operator.get(f"{WEB}/renew-key")
    assert before in page.text and "Sessions that came in by it end" in page.text
    answer = sent(operator, f"{WEB}/renew-key", f"{WEB}/renew-key")
    assert last(core) == entry.RenewKey(instance="shop/web/1")
    assert "There is a new key" in answer.text and before not in answer.text and core.keys[0].fingerprint in answer.text
    assert "There is a new key" not in operator.get(f"{WEB}/connect").text


def test_password(operator: Client, core: FakeCore) -> None:
    page = f"{WEB}/password"
    answer = sent(operator, page, f"{page}/reset", kind="hashed")
    assert last(core) == entry.ResetPassword(instance="shop/web/1", kind=PasswordKind.HASHED)
    assert core.password in answer.text and "cannot be shown again" in answer.text
    assert core.password not in operator.get(f"{WEB}/connect").text
    answer = sent(operator, page, f"{page}/set", password="one of mine", again="another")
    assert "not the same" in answer.text
    answer = sent(operator, page, f"{page}/set", password="short", again="short", kind="raw")
    assert "too short" in answer.text
    answer = sent(operator, page, f"{page}/set", password="long enough", again="long enough", kind="raw")
    assert "The password is set" in answer.text and "long enough" not in answer.text
    answer = sent(operator, page, f"{page}/remove")
    assert "none, keys only" in answer.text


def test_keys(operator: Client, core: FakeCore) -> None:
    answer = sent(
        operator,
        WEB,
        f"{WEB}/keys/add",
        public="ssh-ed25519 AAAA eve@home\n",
        sources="192.0.2.0/24",
        expires="2031-02-03T04:05",
    )
    assert last(core) == entry.AddKey(
        instance="shop/web/1", public="ssh-ed25519 AAAA eve@home", sources="192.0.2.0/24", expires_at=1927857900.0
    )
    assert "eve@home" in answer.text
    answer = sent(operator, WEB, f"{WEB}/keys/add", public="-----BEGIN OPENSSH PRIVATE KEY-----\nxx")
    assert "that is a private key" in answer.text.lower() and isinstance(last(core), entry.AddKey)
    assert "this is no public key" in sent(operator, WEB, f"{WEB}/keys/add", public="nonsense").text.lower()
    assert "is past" in sent(operator, WEB, f"{WEB}/keys/add", public="ssh-rsa A", expires="2001-01-01T00:00").text
    sent(operator, WEB, f"{WEB}/keys/remove", {"key": core.keys[1].fingerprint})
    assert isinstance(last(core), entry.RemoveKey) and "ada@laptop" not in [key.comment for key in core.keys]
    sent(operator, WEB, f"{WEB}/keys/volume")
    assert last(core) == entry.AllowVolumeKeys(instance="shop/web/1", allow=False)


def test_conditions(operator: Client, core: FakeCore) -> None:
    sent(
        operator,
        WEB,
        f"{WEB}/conditions",
        allowed_from="10.0.0.0/8\r\n 192.0.2.1, ::1",
        expires="2031-02-03T04:05",
        sessions_max="7",
    )
    assert core.conditions.allowed_from == ("10.0.0.0/8", "192.0.2.1", "::1")
    assert (core.conditions.expires_at, core.conditions.sessions_max) == (1927857900.0, 7)
    # What was not touched stays to the second, also when it is past.
    core.conditions = msgspec.structs.replace(core.conditions, expires_at=1000000059.0)
    form = operator.get(WEB).form(f"{WEB}/conditions")
    operator.send(form, allowed_from="", sessions_max="")
    assert core.conditions.expires_at == 1000000059.0
    assert core.conditions.allowed_from == () and core.conditions.sessions_max is None
    assert "not a network" in sent(operator, WEB, f"{WEB}/conditions", allowed_from="nonsense", expires="").text
    assert "was not understood" in sent(operator, WEB, f"{WEB}/conditions", expires="tomorrow").text
    assert "was not understood" in sent(operator, WEB, f"{WEB}/conditions", expires="", sessions_max="many").text


def test_lock(operator: Client, core: FakeCore) -> None:
    answer = sent(operator, WEB, f"{WEB}/lock", why="key was lost <b>")
    assert last(core) == entry.Lock(instance="shop/web/1", why="key was lost <b>")
    assert "key was lost <b>" in answer.text
    answer = sent(operator, WEB, f"{WEB}/unlock")
    assert core.conditions.locked_at is None and "is unlocked" in answer.text


def test_sessions(operator: Client, core: FakeCore) -> None:
    answer = sent(operator, "/sessions", "/sessions/end", {"session": "a1b2c3"})
    assert last(core) == entry.Kick(sessions=("a1b2c3",))
    assert "The session has ended" in answer.text
    core.sessions = sample.sessions()
    sent(operator, WEB, f"{WEB}/sessions/end", {"session": "d4e5f6"})
    assert last(core) == entry.Kick(instance="shop/web/1", sessions=("d4e5f6",))
    core.sessions = sample.sessions()
    sent(operator, WEB, f"{WEB}/sessions/end", {"all": "yes"})
    assert last(core) == entry.Kick(instance="shop/web/1")
    assert "Nobody is connected" in operator.get("/sessions").text
    # Without a session nothing is ended, least of all everything.
    token = operator.get("/sessions").form("/sign-out").fields
    before = len(core.calls)
    assert operator.post("/sessions/end", token).status == 303
    assert not [request for _, request in core.calls[before:] if isinstance(request, entry.Kick)]


def test_log(operator: Client, core: FakeCore) -> None:
    answer = operator.get("/log")
    times = [attributes["datetime"] for tag, attributes in answer.read.tags if tag == "time"]
    assert times == sorted(times, key=str, reverse=True) and len(times) == 11
    assert "2026-11-27 09:16:40 UTC" in answer.text
    assert len([1 for tag, _ in operator.get("/log?kind=refused").read.tags if tag == "time"]) == 3
    operator.get("/log?kind=refused&instance=shop%2Fweb%2F1")
    assert core.calls[-1][1] == admin.ReadLog(limit=101, instance="shop/web/1", kinds=(EventKind.REFUSED,))
    assert "there is no instance nothing" in operator.get("/log?instance=nothing").text.lower()
    assert "hatchway ls" not in operator.get("/log?instance=nothing").text
    made = msgspec.structs.replace(sample.events()[0], what="link made: too short", done=False)
    by_rule = msgspec.structs.replace(made, kind=EventKind.AUTO, what="access given to /x: it is away")
    core.events = [sample.events()[0], made, by_rule]
    for page in ("/log", WEB):
        text = " ".join(operator.get(page).text.split())
        assert text.count("not done:") == 2, page
        assert "not done: link made: too short" in text and "not done: access given to /x" in text, page
    core.events = [
        msgspec.structs.replace(sample.events()[0], id=n, at=sample.NOW + n, what=f"event {n}.") for n in range(250)
    ]
    first, second, third = (operator.get(f"/log?page={n}").text for n in (1, 2, 3))
    assert "event 249." in first and "event 150." in first and "event 149." in second and "event 0." in third
    assert "Older" in second and "Older" not in third


def test_the_address_of_a_change_stands_where_addresses_do(operator: Client, core: FakeCore) -> None:
    made = msgspec.structs.replace(sample.events()[0], who="operator olga (web) from 2001:db8::7")
    core.events = [made, msgspec.structs.replace(made, who="a key from home"), sample.events()[1]]
    cells = re.findall(r'<td class="mono small address"[^>]*>([^<]*)</td>\s*<td class="small"[^>]*>([^<]*)<',
                       operator.get("/log").page)  # fmt: skip
    assert cells == [
        ("192.0.2.17", "SHA256:Zk3w1aQ9bV8m ada@laptop"), ("", "a key from home"),
        ("2001:db8::7", "operator olga (web)"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "text", "path"),
    [
        ("hatchway unlock shop-web-1", "Unlock", "/unlock"),
        ("hatchway enable shop/web/1 --all", "To its volumes", "#volumes"),
        ("hatchway confirm shop/web/1 '/a b'", "To its volumes", "#volumes"),
        ("hatchway access set shop-web-1 --expires WHEN", "Who may enter", "#conditions"),
        ("hatchway key list shop-web-1", "To its keys", "#keys"),
        ("hatchway password reset shop-web-1", "Password", "/password"),
        ("hatchway person grant bert INSTANCE VOLUME", "Share something", "/share"),
        ("hatchway person grant --read-only -- bert shop/web/1 /x", "To its volumes", "#volumes"),
        ("hatchway enable shop/web/1 /x --size LIMIT", None, None),
        ("hatchway doctor", None, None),
        ("", None, None),
    ],
)
def test_what_is_mended_here_needs_no_command(
    operator: Client, core: FakeCore, command: str, text: str | None, path: str | None
) -> None:
    hindrance = entry.Hindrance("something is in the way", command)
    whose = of_instance(sample.WEB)
    press = mend(hindrance, whose)
    assert (press and press.text, press and press.path) == (text, path and f"{WEB}{path}")
    core.problems = (hindrance,)
    for page in (WEB, f"{WEB}/connect"):
        answer = operator.get(page)
        assert ("On the host:" in answer.text) == (text is None and bool(command))
        if press is not None and not press.posts:
            # In the dialog a part of the page beneath it would not be seen.
            assert (press.path if page == WEB else press.path.partition("#")[0]) in answer.read.links


def test_who_has_nothing_is_given_something_here(operator: Client, core: FakeCore) -> None:
    core.problems = (entry.Hindrance("nothing is shared", "hatchway person grant bert INSTANCE VOLUME"),)
    answer = operator.get("/people/bert/connect")
    assert "/people/bert/share" in answer.read.links and "hatchway person" not in answer.text


def test_a_static_directory_is_no_container(operator: Client, core: FakeCore) -> None:
    one = msgspec.structs.replace(core.instances[sample.WEB], state=InstanceState.STATIC, image="", user="")
    core.know([one])
    text = operator.get(WEB).text
    assert "without a container" in text and "Runs as" not in text and "Image" not in text


def test_status(operator: Client, core: FakeCore) -> None:
    text = operator.get("/status").text
    assert "Hatchway 0.1.0" in text and "Everything is running" in text and "/var/lib/postgresql/data" in text
    # Instances are found among instances, people have pages of their own.
    links = operator.get("/status").read.links
    assert "/?q=shop-db-1" in links and "/people/clara" in links and "/?q=clara" not in links
