"""A browser without scripts and without a screen: it follows no redirect, keeps cookies, and reads forms."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

from tests.web.core import NAME, PASSWORD

VOID = frozenset(["meta", "link", "input", "br", "hr", "img", "path", "rect", "circle"])


@dataclass
class Form:
    """A form as the page has it: what would be sent if nothing was changed."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "form":
            self.forms.append(Form(found.get("action") or "", found.get("method") or "get"))
        elif tag == "input" and self.forms and found.get("name"):
            if found.get("type") not in ("checkbox", "radio") or "checked" in found:
                self.forms[-1].fields[found["name"] or ""] = found.get("value") or ""
        elif tag == "a" and found.get("href") is not None:
            self.links.append(found["href"] or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@dataclass
class Answer:
    """An answer; `headers` are pairs with names in small letters."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __post_init__(self) -> None:
        self._read: _Reader | None = None

    def header(self, name: str) -> str | None:
        """The header `name`; there must not be two of it."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, found
        return found[0] if found else None

    @property
    def page(self) -> str:
        """The body."""
        return self.body.decode()

    @property
    def read(self) -> _Reader:
        """What is on the page."""
        if self._read is None:
            self._read = _Reader()
            self._read.feed(self.page)
        return self._read

    @property
    def text(self) -> str:
        """All text on the page."""
        return "".join(self.read.text)

    def form(self, action: str, **fields: str) -> Form:
        """The form with this action, and these fields as they are."""
        for form in self.read.forms:
            if form.action == action and all(form.fields.get(key) == value for key, value in fields.items()):
                return form
        raise AssertionError(
            f"no form {action} {fields} among {[(form.action, form.fields) for form in self.read.forms]}"
        )


class Client:
    """Somebody at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """One request. Cookies that are set are kept."""
        parts = urlsplit(self.url)
        assert parts.hostname
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=20, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        sent = dict(headers or {})
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            answer = Answer(
                response.status, [(name.lower(), value) for name, value in response.getheaders()], response.read()
            )
        finally:
            connection.close()
        for name, value in answer.headers:
            if name == "set-cookie":
                key, _, kept = value.partition(";")[0].partition("=")
                if "max-age=0" in value.lower():
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = kept
        return answer

    def get(self, target: str, **headers: str) -> Answer:
        """A page."""
        return self.ask("GET", target, headers=headers)

    def post(self, target: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Answer:
        """A form."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        return self.ask("POST", target, urlencode(fields).encode(), sent | (headers or {}))

    def send(self, form: Form, **fields: str) -> Answer:
        """The form, filled in so."""
        return self.post(form.action, form.fields | fields)

    def follow(self, answer: Answer) -> Answer:
        """Where the answer leads to."""
        location = answer.header("location")
        assert answer.status == 303 and location, (answer.status, answer.page[:500])
        return self.get(location)

    def sign_in(self, name: str = NAME, password: str = PASSWORD) -> Answer:
        """As somebody with scripts switched off would."""
        form = self.get("/sign-in").form("/sign-in")
        return self.send(form, name=name, password=password)
