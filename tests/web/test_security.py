"""Headers, cookies, forms of other sites, names that would like to be markup, and secrets where they must not be."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.web import sample
from tests.web.browsing import Client
from tests.web.conftest import PLAIN
from tests.web.core import NAME, PASSWORD, PRIVATE_KEY, RAW_PASSWORD, FakeCore
from tests.web.place import web

from hatchway.config import Web
from hatchway.errors import HostError, NotRunningError, RefusedError
from hatchway.printable import escaped
from hatchway.web import paths

WEB = paths.instance(sample.WEB)
PAGES = (
    "/", "/sessions", "/log", "/status", WEB, f"{WEB}/connect", f"{WEB}/links", f"{WEB}/password", f"{WEB}/renew-key",
    f"{WEB}/people",
)  # fmt: skip
FORMS = (
    "/sessions/end",
    *(
        f"{WEB}/{what}"
        for what in (
            "volumes/enable", "volumes/disable", "volumes/confirm", "connect/reveal", "connect/key", "connect/file",
            "renew-key", "password/reset", "password/set", "password/remove", "keys/add", "keys/remove", "keys/volume",
            "conditions", "lock", "unlock", "sessions/end", "links/make", "links/revoke",
        )
    ),
)  # fmt: skip


@pytest.mark.parametrize("page", ["/sign-in", "/link", "/nothing-here", *PAGES])
def test_headers(operator: Client, page: str) -> None:
    answer = operator.get(page)
    policy = answer.header("content-security-policy") or ""
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy and "form-action 'self'" in policy
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "no-referrer"
    assert answer.header("cross-origin-opener-policy") == "same-origin"
    assert answer.header("cross-origin-resource-policy") == "same-origin"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("server") is None
    assert answer.header("strict-transport-security") is None
    for tag, attributes in answer.read.tags:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")


def test_static_files_are_kept_and_nothing_else(operator: Client) -> None:
    page = operator.get("/")
    css = next(
        attributes["href"] for tag, attributes in page.read.tags if tag == "link" and attributes["rel"] == "stylesheet"
    )
    assert css is not None
    answer = operator.get(css)
    assert answer.status == 200
    assert answer.header("cache-control") == "public, max-age=31536000, immutable"
    assert answer.header("content-type") == "text/css; charset=utf-8"
    for wrong in ("/static/../main.py", "/static/..%2fmain.py", "/static/hatchway.css", "/static/", "/static/x/y"):
        assert operator.get(wrong).status in (404, 405)


def test_cookies_over_https(core: FakeCore, directory: Path) -> None:
    with web(core, directory, Web(tls="own", listen=("127.0.0.1:0",))) as url:
        assert url.startswith("https://")
        client = Client(url)
        answer = client.sign_in()
        [cookie] = [value for name, value in answer.headers if name == "set-cookie" and "Max-Age=0" not in value]
        assert re.fullmatch(r"__Host-hatchway=token-\S+; HttpOnly; Path=/; SameSite=strict; Secure", cookie)
        assert answer.header("strict-transport-security") == "max-age=31536000"
        assert client.get("/").status == 200
        assert (directory / "state-web" / "key.pem").stat().st_mode & 0o777 == 0o600
        made = (directory / "state-web" / "certificate.pem").read_bytes()
    with web(core, directory, Web(tls="own", listen=("127.0.0.1:0",))):
        assert (directory / "state-web" / "certificate.pem").read_bytes() == made


def test_cookies_on_loopback(site: str) -> None:
    client = Client(site)
    answer = client.sign_in()
    [cookie] = [value for name, value in answer.headers if name == "set-cookie" and "Max-Age=0" not in value]
    assert re.fullmatch(r"hatchway=token-\S+; HttpOnly; Path=/; SameSite=strict", cookie)


@pytest.mark.parametrize("page", PAGES)
def test_pages_need_a_session(visitor: Client, core: FakeCore, page: str) -> None:
    answer = visitor.get(page)
    assert answer.status == 303
    assert (answer.header("location") or "").startswith("/sign-in")
    assert not core.calls


@pytest.mark.parametrize("form", FORMS)
def test_forms_need_a_session(visitor: Client, core: FakeCore, form: str) -> None:
    assert visitor.post(form, {}).status == 303
    assert not core.calls


@pytest.mark.parametrize("form", FORMS)
def test_forms_need_their_token(operator: Client, core: FakeCore, form: str) -> None:
    for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}):
        assert operator.post(form, fields).status == 403
    assert not core.calls


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_forms_of_other_sites(operator: Client, core: FakeCore, headers: dict[str, str]) -> None:
    form = operator.get(WEB).form(f"{WEB}/lock")
    before = len(core.calls)
    assert operator.post(form.action, form.fields | {"why": "x"}, headers).status == 403
    assert len(core.calls) == before
    assert operator.post(form.action, form.fields | {"why": "x"}, {"Origin": operator.url}).status == 303


def test_token_of_another_session(site: str, operator: Client, core: FakeCore) -> None:
    other = Client(site)
    other.sign_in()
    form = other.get(WEB).form(f"{WEB}/lock")
    assert operator.send(form, why="x").status == 403
    assert other.send(form, why="x").status == 303


def test_signing_out_needs_its_token(operator: Client, core: FakeCore) -> None:
    assert operator.post("/sign-out", {}).status == 403
    form = operator.get("/").form("/sign-out")
    token = operator.cookies["hatchway"]
    assert operator.send(form).status == 303
    assert not core.tokens and "hatchway" not in operator.cookies
    operator.cookies["hatchway"] = token
    assert operator.get("/").status == 303


def test_sign_in_says_the_same_for_all_reasons(visitor: Client, core: FakeCore) -> None:
    def told(name: str, password: str) -> str:
        answer = visitor.sign_in(name, password)
        assert answer.status == 403
        return next(text for text in answer.read.text if "wrong" in text)

    assert told(NAME, "wrong") == told("nobody", "wrong") == told("nobody", PASSWORD)
    assert all(one.address == "127.0.0.1" for one in core.sign_ins)


def test_sign_in_waits(visitor: Client, core: FakeCore) -> None:
    core.wait = "too many attempts: wait 42 s and try again"
    answer = visitor.sign_in()
    assert answer.status == 429 and answer.header("retry-after") == "42"
    assert "wait 42 s" in answer.text.lower()
    assert PASSWORD not in answer.page


def test_sign_in_forms_of_other_sites(visitor: Client, core: FakeCore) -> None:
    form = visitor.get("/sign-in").form("/sign-in")
    fields = form.fields | {"name": NAME, "password": PASSWORD}
    assert visitor.post("/sign-in", fields, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert Client(visitor.url).post("/sign-in", fields).status == 403
    assert not core.sign_ins


def test_links_elsewhere_end_no_session(operator: Client) -> None:
    """The browser keeps the cookie back then; a page of ours asks again."""
    bare = Client(operator.url)
    answer = bare.get(WEB, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 200 and ("meta", {"http-equiv": "refresh", "content": "0"}) in answer.read.tags
    assert answer.header("set-cookie") is None
    answer = bare.get(WEB, **{"Sec-Fetch-Site": "same-origin"})
    assert answer.status == 303 and answer.header("set-cookie") is None


def test_signing_in_again_ends_the_session_before(operator: Client, core: FakeCore) -> None:
    [token] = core.tokens
    form = Client(operator.url)
    page = form.get("/sign-in")
    form.cookies["hatchway"] = token
    form.send(page.form("/sign-in"), name=NAME, password=PASSWORD)
    assert token not in core.tokens and len(core.tokens) == 1


def test_sign_in_leads_back(visitor: Client) -> None:
    form = visitor.follow(visitor.get(f"{WEB}/connect")).form("/sign-in")
    answer = visitor.send(form, name=NAME, password=PASSWORD)
    assert answer.header("location") == f"{WEB}/connect"
    evil = Client(visitor.url)
    form = evil.get("/sign-in?next=//evil.example").form("/sign-in")
    assert evil.send(form, name=NAME, password=PASSWORD).header("location") == "/"


@pytest.mark.parametrize("number", range(1, len(sample.HOSTILE) + 1))
def test_hostile_names_are_data(operator: Client, core: FakeCore, number: int) -> None:
    one = next(one for one in core.instances.values() if one.login == f"hostile-{number}")
    name = sample.HOSTILE[number - 1]
    listed = operator.get("/")
    path = paths.instance(one.key)
    assert path in listed.read.links
    for page in (
        "/",
        path,
        f"{path}/connect",
        f"{path}/password",
        f"{path}/renew-key",
        paths.query("/log", of=paths.coded(str(one.key))),
    ):
        answer = operator.get(page)
        assert answer.status == 200, page
        assert "<script>alert" not in answer.page and "<svg/onload" not in answer.page
        assert "\u202e" not in answer.page and "\r" not in answer.page
        for tag, attributes in answer.read.tags:
            assert not [key for key in attributes if key.startswith("on")]
            assert tag != "script" or attributes.get("src")
            link = attributes.get("href") or ""
            assert link.startswith(("/", "#", "sftp://", "https://")) or not link
        assert "49{%" not in answer.page
    assert escaped(name)[:200] in operator.get(path).text


@pytest.mark.parametrize("number", range(1, len(sample.HOSTILE) + 1))
def test_hostile_volumes_are_switched(operator: Client, core: FakeCore, number: int) -> None:
    """What a form says of a volume is that volume, whatever it is called."""
    one = next(one for one in core.instances.values() if one.login == f"hostile-{number}")
    path = paths.instance(one.key)
    volume = one.volumes[1]
    form = operator.get(path).form(f"{path}/volumes/enable", volume=paths.coded(volume.path))
    assert operator.send(form, mode="ro").header("location") == path
    request = core.calls[-1][1]
    assert (request.instance, request.volumes, request.read_only) == (str(one.key), (volume.path,), True)
    assert f"Remote access to {escaped(volume.path)} is on" in operator.get(path).text


def test_errors_say_hostile_names_as_data(operator: Client, core: FakeCore) -> None:
    core.failing = RefusedError(f"not for {sample.SCRIPT}\u202e")
    answer = operator.get("/")
    assert answer.status == 403 and "<script>alert" not in answer.page and "\u202e" not in answer.page


def test_secrets_are_where_they_were_asked_for(
    operator: Client, core: FakeCore, capfd: pytest.CaptureFixture[str]
) -> None:
    for page in PAGES:
        answer = operator.get(page)
        assert RAW_PASSWORD not in answer.text and "correct" not in answer.page
    form = operator.get(f"{WEB}/connect").form(f"{WEB}/connect/reveal")
    revealed = operator.send(form)
    assert RAW_PASSWORD in revealed.text
    assert revealed.header("cache-control") == "no-store"
    link = next(link for link in revealed.read.links if link.startswith("sftp://"))
    assert urlsplit(link).port == 2022 and "correct%20horse%26battery%2Fstaple%2B%3C%25%3E" in link
    assert "correct" not in operator.get(f"{WEB}/connect").page
    form = operator.get(f"{WEB}/connect").form(f"{WEB}/connect/key", form="openssh")
    assert operator.send(form).body.decode() == PRIVATE_KEY
    log = "".join(capfd.readouterr())
    for secret in ("correct", "PRIVATE KEY", PASSWORD, *core.tokens):
        assert secret not in log


def test_limits(operator: Client, core: FakeCore) -> None:
    before = len(core.calls)
    assert operator.get("/?q=" + "x" * 20000).status in (400, 414, 431)
    assert operator.get("/", X="y" * 20000).status in (400, 431)
    assert operator.post(f"{WEB}/lock", {"why": "x" * 70000}).status == 413
    assert operator.ask("PUT", "/").status == 405
    assert operator.ask("TRACE", "/").status == 405
    assert operator.ask("POST", f"{WEB}/lock", b"{}", {"Content-Type": "application/json"}).status == 400
    assert len(core.calls) == before


def test_a_body_without_end_is_cut(site: str, operator: Client) -> None:
    parts = urlsplit(site)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sock:
        sock.sendall(
            f"POST {WEB}/lock HTTP/1.1\r\nHost: x\r\nCookie: hatchway={operator.cookies['hatchway']}\r\n"
            "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for _ in range(10):
                sock.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        except OSError:
            pass
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path",
    [
        "/instances/shop/web/01", "/instances/shop/web/-1", "/instances/shop/w%65b/1", "/instances/shop/~77eb/1",
        "/instances/../etc/1", "/instances/shop/web", "/instances/shop/web/1/", "/instances/shop/web/1/nothing",
        "/instances//web/1", "/instances/shop/nothing/1", "//evil.example/", "/../../etc/passwd",
    ],
)  # fmt: skip
def test_paths_that_are_none(operator: Client, path: str) -> None:
    assert operator.get(path).status == 404


@pytest.mark.parametrize("how", ["--http2", "--http2-prior-knowledge"])
def test_no_http_2_without_tls(site: str, how: str) -> None:
    command = ["curl", "--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}", how]
    done = subprocess.run([*command, f"{site}/sign-in"], capture_output=True, text=True, check=False)
    assert done.stdout == "400"


def test_no_websockets(operator: Client) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = operator.get("/", **upgrade, **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert answer.status == 403 and not answer.body


def test_core_away(operator: Client, core: FakeCore) -> None:
    core.failing = NotRunningError("/run/hatchway/hostd.sock hung up")
    answer = operator.get("/")
    assert answer.status == 503 and answer.header("retry-after") == "5"
    assert "/run/hatchway" not in answer.page
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in answer.read.tags
    core.failing = None
    form = operator.get(WEB).form(f"{WEB}/lock")
    core.failing = NotRunningError("hung up")
    answer = operator.send(form)
    # Asking again by itself would be another request than the form's.
    assert answer.status == 503 and "is not known" in answer.text
    assert not [attributes for tag, attributes in answer.read.tags if tag == "meta" and "http-equiv" in attributes]
    core.failing = HostError("the volume cannot be mounted")
    answer = operator.get("/")
    assert answer.status == 500 and "the volume cannot be mounted" in answer.text.lower()


def test_nothing_behind_the_socket(core: FakeCore, directory: Path) -> None:
    with web(core, directory, PLAIN) as url:
        client = Client(url)
        client.sign_in()
        (directory / "web.sock").rename(directory / "elsewhere")
        assert client.get("/").status == 503
        (directory / "elsewhere").rename(directory / "web.sock")
        assert client.get("/").status == 200


def test_behind_a_proxy(core: FakeCore, directory: Path) -> None:
    settings = Web(tls="proxy", listen=("127.0.0.1:0",), trusted_proxies=("127.0.0.1",))
    with web(core, directory, settings) as url:
        client = Client(url)
        form = client.get("/sign-in", **{"X-Forwarded-For": "203.0.113.7"}).form("/sign-in")
        fields = form.fields | {"name": NAME, "password": PASSWORD}
        assert client.post("/sign-in", fields, {"X-Forwarded-For": "9.9.9.9, 203.0.113.7"}).status == 303
        assert core.sign_ins[-1].address == "203.0.113.7"
        assert "__Host-hatchway" in client.cookies
        client.get("/", **{"X-Forwarded-For": "203.0.113.8"})
        assert core.calls[-1][0] == "203.0.113.8"


def test_only_the_proxy_may_ask(core: FakeCore, directory: Path) -> None:
    settings = Web(tls="proxy", listen=("127.0.0.1:0",), trusted_proxies=("192.0.2.1",))
    with web(core, directory, settings) as url:
        assert Client(url).get("/sign-in", **{"X-Forwarded-For": "192.0.2.1"}).status == 403
        assert not core.sign_ins
