"""A core that is made up: it answers on a unix socket as the real one does, with the messages of wire.

It runs in a thread of its own, so that tests, browsers and the web process meet it as a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import trio
from tests.web import sample

from hatchway.admin.rights import may
from hatchway.errors import (
    ConflictError,
    HatchwayError,
    NotFoundError,
    PassphraseError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
    UnfinishedError,
    UsageError,
)
from hatchway.model import InstanceKey, Mode, Origin, person_named
from hatchway.wire import admin, entry, links, people
from hatchway.wire.admin import Access, ConnectionInfo, GrantStatus, InstanceStatus, PersonStatus, PersonVolume
from hatchway.wire.entry import ConditionsStatus, KeyOrigin, KeyStatus, PasswordKind
from hatchway.wire.service import Peer, Request, Table, Work, serve
from hatchway.wire.web import (
    Call,
    ChangePassword,
    OpenLink,
    SignedIn,
    SignedOut,
    SignIn,
    SignOut,
    Viewer,
    ViewerKind,
    WhoIs,
)

NAME, PASSWORD = "olga", "a right password"
PERSON, PERSONS_PASSWORD = "anna", "a person's password"
RAW_PASSWORD = "correct horse&battery/staple+<%>"
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"

_KINDS = (
    admin.ListInstances | admin.Enable | admin.Disable | admin.Confirm | admin.Show | admin.DaemonStatus
    | admin.ReadLog | entry.ShowPassword | entry.ResetPassword | entry.SetPassword | entry.RemovePassword
    | entry.ExportKey | entry.RenewKey | entry.AddKey | entry.RemoveKey | entry.AllowVolumeKeys | entry.ListKeys
    | links.ListLinks | links.MakeLink | links.RevokeLink
    | entry.ShowConditions | entry.SetConditions | entry.Lock | entry.Unlock | entry.ListSessions | entry.Kick
    | people.ListPeople | people.AddPerson | people.RemovePerson | people.GrantPerson | people.RevokePerson
)  # fmt: skip


class FakeCore:
    """What it knows may be changed by a test; `calls` are the requests it got, oldest first."""

    def __init__(self) -> None:
        self.instances: dict[InstanceKey, InstanceStatus] = {}
        self.know([*sample.plain(), *sample.hostile()])
        self.people: dict[str, PersonStatus] = {one.login: one for one in sample.people()}
        self.persons_password = PERSONS_PASSWORD
        self.keys: list[KeyStatus] = sample.keys()
        self.sessions = [*sample.sessions(), sample.session_of_anna()]
        self.events = [*sample.events(), *sample.events_of_anna()]
        self.conditions = ConditionsStatus(
            login="shop-web-1",
            allowed_from=("192.0.2.0/24", "2001:db8::/32"),
            expires_at=None,
            sessions_max=None,
            sessions_default=40,
            locked_at=None,
            locked_why="",
        )
        self.password_kinds: dict[InstanceKey, PasswordKind] = {sample.HASHED: PasswordKind.HASHED}
        self.password = RAW_PASSWORD
        self.person_kinds: dict[str, PasswordKind] = {}
        self.tokens: dict[str, Viewer] = {}
        self.calls: list[tuple[str, Any]] = []
        self.sign_ins: list[SignIn] = []
        self.links: dict[str, tuple[links.ShareLink, str | None]] = {}
        self.public_url = ""
        self.wait = ""
        self.failing: HatchwayError | None = None
        # What is taken away from people is, but the host has not heard of it.
        self.unfinished: UnfinishedError | None = None
        self.problems: tuple[entry.Hindrance, ...] = ()
        # Folders that are in no volume.
        self.missing: set[str] = set()
        self.new_password: str | None = None
        self._made = 0

    def know(self, instances: list[InstanceStatus]) -> None:
        """Have these instances and no others."""
        self.instances = {one.key: one for one in sorted(instances, key=lambda one: one.key)}

    def table(self) -> Table:
        """As the core's socket "web" has it."""
        own = (os.geteuid(), 65534)
        rows: dict[type, Callable[..., Any]] = {
            SignIn: self._sign_in, WhoIs: self._who_is, SignOut: self._sign_out, Call: self._call,
            OpenLink: self._open_link, ChangePassword: self._change_password,
        }  # fmt: skip
        return {kind: Request(own, handler) for kind, handler in rows.items()}

    async def _sign_in(self, request: SignIn, _peer: Peer) -> SignedIn:
        self.sign_ins.append(request)
        if self.wait:
            raise SignInWaitError(self.wait)
        is_person = request.name in self.people and request.password == self.persons_password
        if not is_person and (request.name, request.password) != (NAME, PASSWORD):
            raise SignInError("name or password is wrong, or this account may not sign in")
        self._made += 1
        token = f"token-{self._made}-{os.urandom(16).hex()}"
        self.tokens[token] = Viewer(
            kind=ViewerKind.PERSON if is_person else ViewerKind.OPERATOR,
            name=request.name,
            expires_at=sample.NOW + 43200,
        )
        return SignedIn(token=token, viewer=self.tokens[token])

    async def _open_link(self, request: OpenLink, _peer: Peer) -> SignedIn:
        if self.wait:
            raise SignInWaitError(self.wait)
        found, passphrase = self.links.get(request.token, (None, None))
        if found is None or found.uses >= found.uses_max:
            raise SignInError("this link opens nothing")
        if passphrase is not None and request.passphrase != passphrase:
            raise PassphraseError("the passphrase is wrong" if request.passphrase else "a passphrase is asked for")
        self.links[request.token] = msgspec.structs.replace(found, uses=found.uses + 1), passphrase
        self._made += 1
        token = f"token-{self._made}-{os.urandom(16).hex()}"
        left = found.uses_max - found.uses - 1
        self.tokens[token] = Viewer(
            kind=ViewerKind.LINK, name=str(found.key), expires_at=found.expires_at, uses_left=left
        )
        return SignedIn(token=token, viewer=self.tokens[token])

    async def _who_is(self, request: WhoIs, _peer: Peer) -> Viewer:
        if request.token not in self.tokens:
            raise SignedOutError("sign in again")
        return self.tokens[request.token]

    async def _sign_out(self, request: SignOut, _peer: Peer) -> SignedOut:
        self.tokens.pop(request.token, None)
        return SignedOut()

    async def _change_password(self, request: ChangePassword, _peer: Peer) -> entry.Password:
        viewer = self.tokens.get(request.token)
        if viewer is None:
            raise SignedOutError("sign in again")
        if viewer.kind is not ViewerKind.PERSON:
            raise RefusedError("only people change their password here")
        self.calls.append((request.address, request))
        if self.wait:
            raise SignInWaitError(self.wait)
        if request.current != self.persons_password:
            raise SignInError("the current password is wrong; nothing was changed")
        if len(request.password) < 8:
            raise UsageError("a password must have at least 8 characters")
        self.persons_password = request.password
        self.tokens = {
            token: one for token, one in self.tokens.items() if token == request.token or one.name != viewer.name
        }
        kind = request.kind or PasswordKind.RAW
        self.person_kinds[viewer.name] = kind
        return entry.Password(login=viewer.name, kind=kind)

    async def _call(self, call: Call, _peer: Peer) -> object:
        if call.token not in self.tokens:
            raise SignedOutError("sign in again")
        request = msgspec.msgpack.decode(call.request, type=_KINDS)
        self.calls.append((call.address, request))
        viewer = self.tokens[call.token]
        if not may(viewer.kind, viewer.name, request):
            raise RefusedError("this cannot be done from the web pages with your rights")
        if self.failing is not None:
            raise self.failing
        return self._answer(request)

    def _find(self, text: str) -> InstanceStatus:
        found = next((one for one in self.instances.values() if text in (str(one.key), one.login)), None)
        if found is None:
            raise NotFoundError(f"there is no instance {text}")
        return found

    def _change(self, text: str, path: str, **fields: object) -> InstanceStatus:
        one = self._find(text)
        volumes = tuple(
            msgspec.structs.replace(volume, **fields) if volume.path == path else volume for volume in one.volumes
        )
        login = one.login or f"{one.key.environment}-{one.key.container}-{one.key.number}"
        self.instances[one.key] = msgspec.structs.replace(one, volumes=volumes, login=login)
        return self.instances[one.key]

    def _kind(self, one: InstanceStatus | PersonStatus) -> PasswordKind:
        if isinstance(one, PersonStatus):
            return self.person_kinds.get(one.login, PasswordKind.RAW)
        return self.password_kinds.get(one.key, PasswordKind.RAW)

    def _set_kind(self, one: InstanceStatus | PersonStatus, kind: PasswordKind) -> None:
        if isinstance(one, PersonStatus):
            self.person_kinds[one.login] = kind
        else:
            self.password_kinds[one.key] = kind

    def _holder(self, text: str) -> InstanceStatus | PersonStatus:
        login = person_named(text)
        return self._find(text) if login is None else self._person(login)

    def _person(self, login: str) -> PersonStatus:
        if login not in self.people:
            raise NotFoundError(f"there is no person {login!r}")
        return self.people[login]

    def _share(self, login: str, key: InstanceKey, paths: tuple[str, ...], *given: PersonVolume) -> PersonStatus:
        """Have the person have `given` of these paths, and nothing else of them."""
        kept = [one for one in self._person(login).volumes if one.key != key or one.path not in paths]
        volumes = tuple(sorted((*kept, *given), key=lambda one: (one.key, one.path)))
        self.people[login] = msgspec.structs.replace(self.people[login], volumes=volumes)
        return self.people[login]

    def _of_people(self, request: object) -> object:
        match request:
            case people.ListPeople():
                return people.People(tuple(self.people[login] for login in sorted(self.people)))
            case people.AddPerson():
                if request.login in self.people:
                    raise ConflictError(f"{request.login} is taken")
                self.people[request.login] = PersonStatus(
                    login=request.login, full_name=request.full_name, created_at=sample.NOW, volumes=()
                )
                return people.PersonChanged(person=self.people[request.login], password=self.new_password)
            case people.RemovePerson():
                gone = self._person(request.login)
                del self.people[request.login]
                return people.PersonRemoved(login=gone.login, grants=tuple((one.key, one.path) for one in gone.volumes))
            case people.GrantPerson():
                one = self._find(request.instance)
                if request.folder and len(request.volumes) != 1:
                    raise UsageError("a folder is one volume's: name that volume only")
                mode = Mode.READ_ONLY if request.read_only else Mode.READ_WRITE
                refused = f"there is no folder {request.folder} in it now" if request.folder in self.missing else ""
                given = [
                    sample.person_volume(one.key, path, mode, folder=request.folder, refused=refused)
                    for path in request.volumes
                ]
                person = self._share(request.login, one.key, request.volumes, *given)
                return people.PersonChanged(person=person, key=one.key, changed=request.volumes)
            case people.RevokePerson():
                key = next(
                    each.key for each in self._person(request.login).volumes if str(each.key) == request.instance
                )
                paths = request.volumes
                if request.every:
                    paths = tuple(each.path for each in self._person(request.login).volumes if each.key == key)
                return people.PersonChanged(person=self._share(request.login, key, paths), key=key, changed=paths)
        raise RefusedError("not allowed")

    def _keys(self, login: str) -> entry.Keys:
        volumes = login not in self.people
        keys = tuple(key for key in self.keys if volumes or key.origin is not KeyOrigin.VOLUME)
        return entry.Keys(login=login, keys=keys, volume_keys=volumes)

    def _answer(self, request: object) -> object:
        match request:
            case admin.ListInstances():
                sources = (admin.SourceStatus(source="docker", age_s=2.0, instances=len(self.instances), problem=None),)
                return admin.Listing(instances=tuple(self.instances.values()), sources=sources)
            case admin.Enable():
                [path] = request.volumes
                access = Access.READ_ONLY if request.read_only else Access.READ_WRITE
                mode = Mode.READ_ONLY if request.read_only else Mode.READ_WRITE
                grant = GrantStatus(
                    origin=Origin.COMMAND, mode=mode, in_force=True, follows=request.follow,
                    granted_by="olga", granted_at=1,
                    ownership=request.ownership,
                )  # fmt: skip
                after = self._change(request.instance, path, access=access, session_path=path, grants=(grant,))
                return admin.Changed(instance=after, changed=(path,))
            case admin.Disable():
                [path] = request.volumes
                after = self._change(request.instance, path, access=Access.OFF, session_path=None, grants=())
                return admin.Changed(instance=after, changed=(path,))
            case admin.Confirm():
                [path] = request.volumes
                after = self._change(request.instance, path, access=Access.READ_WRITE, session_path=path)
                return admin.Changed(instance=after, changed=(path,))
            case admin.Show():
                return self._show(request)
            case admin.DaemonStatus():
                return admin.Status(
                    version="0.1.0",
                    sources=(
                        admin.SourceStatus(source="docker", age_s=2.0, instances=len(self.instances), problem=None),
                    ),
                    logins=5,
                    sessions=len(self.sessions),
                    mounts=4,
                    host_problem=None,
                    waiting=("shop/db/1 /var/lib/postgresql/data",),
                    locked=("clara", "shop-db-1"),
                )
            case admin.ReadLog():
                whose = person_named(request.instance) or request.instance
                if whose and whose not in ("shop-web-1", *self.people, *map(str, self.instances)):
                    raise NotFoundError(f"there is no instance {request.instance}; 'hatchway ls' lists them")
                found = [
                    one
                    for one in self.events
                    if (not request.kinds or one.kind in request.kinds)
                    and (not whose or whose in (one.instance, one.login))
                ]
                return admin.Log(entries=tuple(found[-request.limit :]), last=len(self.events))
            case links.MakeLink():
                shared = self._find(request.instance)
                token = f"link-{os.urandom(20).hex()}"
                link = links.ShareLink(
                    name=os.urandom(4).hex(), key=shared.key, login=shared.login or "", note=request.note,
                    made_at=sample.NOW, made_by="operator olga (web)", expires_at=request.expires_at,
                    uses_max=request.uses, uses=0, passphrase=request.passphrase is not None,
                )  # fmt: skip
                self.links[token] = link, request.passphrase
                url = f"{self.public_url}/link#{token}" if self.public_url else ""
                return links.LinkMade(link=link, token=token, url=url)
            case links.ListLinks():
                return links.ShareLinks(tuple(link for link, _ in self.links.values()))
            case links.RevokeLink():
                token = next((key for key, (link, _) in self.links.items() if link.name == request.link), "")
                if not token:
                    raise NotFoundError(f"there is no link {request.link}")
                return links.LinkRevoked(self.links.pop(token)[0])
            case entry.ExportKey():
                one = self._holder(request.instance)
                text = PRIVATE_KEY if request.form is entry.KeyForm.OPENSSH else "PuTTY-User-Key-File-3: ssh-ed25519\n"
                return entry.KeyExport(
                    login=one.login or "", private=text, public="ssh-ed25519 AAAA", fingerprint="SHA256:x"
                )
            case people.RemovePerson() | people.RevokePerson():
                answer = self._of_people(request)
                if self.unfinished is not None:
                    raise self.unfinished
                return answer
            case people.ListPeople() | people.AddPerson() | people.GrantPerson():
                return self._of_people(request)
            case _:
                return self._credentials(request)

    def _credentials(self, request: Any) -> object:
        one = self._holder(request.instance) if getattr(request, "instance", None) else None
        login = "" if one is None else one.login or ""
        match request:
            case entry.ListKeys() | entry.AllowVolumeKeys():
                return self._keys(login)
            case entry.RenewKey():
                fresh = f"SHA256:{os.urandom(32).hex()[:43]}"
                self.keys = [
                    msgspec.structs.replace(key, fingerprint=fresh) if key.origin is KeyOrigin.GENERATED else key
                    for key in self.keys
                ]
                return self._keys(login)
            case entry.AddKey():
                if not request.public.startswith("ssh-"):
                    raise UsageError("this is no public key")
                self.keys.append(
                    KeyStatus(
                        origin=KeyOrigin.ADDED,
                        algorithm="ssh-ed25519",
                        fingerprint=f"SHA256:{len(self.keys)}{'n' * 42}",
                        comment=request.public.partition(" ")[2].partition(" ")[2],
                        sources=request.sources,
                        expires_at=request.expires_at,
                    )
                )
                return self._keys(login)
            case entry.RemoveKey():
                self.keys = [key for key in self.keys if key.fingerprint != request.key]
                return self._keys(login)
            case entry.ResetPassword():
                assert one is not None
                self.password = f"made-{os.urandom(6).hex()}"
                self._set_kind(one, request.kind or PasswordKind.RAW)
                return entry.Password(login=login, kind=self._kind(one), password=self.password)
            case entry.SetPassword():
                assert one is not None
                if len(request.password) < 8:
                    raise UsageError("the password is too short: expected 8 characters or more")
                self.password = request.password
                self._set_kind(one, request.kind or PasswordKind.RAW)
                return entry.Password(login=login, kind=self._kind(one))
            case entry.RemovePassword():
                assert one is not None
                self._set_kind(one, PasswordKind.NONE)
                return entry.Password(login=login, kind=PasswordKind.NONE)
            case entry.ShowConditions():
                return self.conditions
            case entry.SetConditions():
                if request.allowed_from is not msgspec.UNSET and "nonsense" in request.allowed_from:
                    raise UsageError("nonsense: not a network; write it as 192.0.2.0/24 or a single address")
                said = {name: getattr(request, name) for name in ("allowed_from", "expires_at", "sessions_max")}
                self.conditions = msgspec.structs.replace(
                    self.conditions, **{name: value for name, value in said.items() if value is not msgspec.UNSET}
                )
                return self.conditions
            case entry.Lock():
                self.conditions = msgspec.structs.replace(self.conditions, locked_at=sample.NOW, locked_why=request.why)
                return self.conditions
            case entry.Unlock():
                self.conditions = msgspec.structs.replace(self.conditions, locked_at=None, locked_why="")
                return self.conditions
            case entry.ListSessions():
                found = [each for each in self.sessions if one is None or each.login == one.login]
                return entry.Sessions(sessions=tuple(found))
            case entry.Kick():
                ended = [
                    each
                    for each in self.sessions
                    if (one is None or each.login == one.login)
                    and (not request.sessions or each.id in request.sessions)
                ]
                if request.sessions and not ended:
                    raise NotFoundError(f"there is no session {request.sessions[0]!r}")
                self.sessions = [each for each in self.sessions if each not in ended]
                return entry.Kicked(sessions=tuple(ended))
        raise RefusedError("not allowed")

    def _show(self, request: admin.Show) -> ConnectionInfo:
        one = self._holder(request.instance)
        if one.login is None:
            raise ConflictError("no volume of it was ever shared")
        instance = one if isinstance(one, InstanceStatus) else None
        kind = self._kind(one)
        generated = next((key for key in self.keys if key.origin is KeyOrigin.GENERATED), None)
        return ConnectionInfo(
            instance=instance,
            person=one if isinstance(one, PersonStatus) else None,
            host="sftp.example.com",
            port=2022,
            login=one.login,
            start_directory="/"
            if instance is None
            else next((x.path for x in instance.volumes if x.access.is_on), "/"),
            password_kind=kind,
            password=self.password if request.secrets and kind is PasswordKind.RAW else None,
            key_fingerprint=None if generated is None else generated.fingerprint,
            key_public="ssh-ed25519 AAAA",
            host_keys=sample.HOST_KEYS,
            conditions=msgspec.structs.replace(self.conditions, login=one.login),
            keys=1,
            volume_keys=1,
            problems=self.problems,
            password_hash="" if kind is PasswordKind.NONE else "argon2id",
        )


@contextlib.contextmanager
def serving(core: FakeCore, path: Path) -> Iterator[None]:
    """`core` on the unix socket at `path`, until the context ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(100)
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def run() -> None:
        token, scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        stop.append(lambda: token.run_sync_soon(scope.cancel))
        with scope:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            ready.set()
            await serve("web", listening, core.table(), Work())
        await listening.aclose()

    thread = threading.Thread(target=trio.run, args=(run,), name="fake core")
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        stop[0]()
        thread.join(10)
        path.unlink()
