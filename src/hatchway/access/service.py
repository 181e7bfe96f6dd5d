"""The auth socket: what sshd's helpers ask, and the answers.

The helpers start with every login and must be cheap, so this protocol is not our frames but the least that a script
with nothing but the standard library can speak: fields `key=value` with a NUL between them, the first `op=…`, then
the end of the stream. The first line of the answer is `ok` or `no`, the rest is payload. Everything asked here comes,
in the end, from a stranger. A refusal never says why: the log does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import trio

from hatchway import addresses, log
from hatchway.access.attempts import Attempts, UncheckedError
from hatchway.access.decision import Denial, LoginFacts, decide_keys, decide_login, decide_session, has_passed
from hatchway.access.throttle import Throttle
from hatchway.admin.admission import Admission
from hatchway.admin.core import Core
from hatchway.admin.volume_keys import NOTHING
from hatchway.credentials import keys, passwords
from hatchway.errors import HatchwayError
from hatchway.model import Login, is_probe, valid_login
from hatchway.registry.records import CredentialKind, CredentialRecord, LoginRecord
from hatchway.sshd import dropin
from hatchway.wire.service import Peer, Work, peer_of, serve_connections

MAX_REQUEST = 32 * 1024
"""Bytes. SSH_AUTH_INFO_0 holds the key used: an RSA key of 16384 bits is 2.8 kB."""

REQUEST_TIMEOUT_S = 10.0
"""How long a helper may take to send its request; it sends at once."""

LOGGED_MAX = 64
"""Characters of what a stranger says that are logged."""

PROVED_MAX = 1000
"""Connections that know a password and have no session yet: sshd has MaxStartups of them, 600, for LoginGraceTime."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`ok` and its payload, or `no`."""

    ok: bool
    payload: str = ""


NO = Answer(False)


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the socket's table: who may ask, and what answers."""

    uids: Collection[int]
    handler: Callable[[Mapping[str, bytes], Peer], Awaitable[Answer]]


class Gate:
    """Answers the helpers. `keys_uid` is the uid sshd runs the key helper as; `expiry_known` as in ValidKey.line."""

    def __init__(self, core: Core, admission: Admission, keys_uid: int, *, expiry_known: bool) -> None:
        self._core = core
        self._admission = admission
        self._journal = core.journal
        self._attempts = Attempts()
        self._proved = Proved()
        self._expiry_known = expiry_known
        self._logger = log.get(socket="auth")
        self._table = {
            b"keys": Question((keys_uid,), self._keys),
            b"auth": Question((0,), self._auth),
            b"account": Question((0,), self._account),
            b"open": Question((0,), self._open),
        }

    @property
    def throttle(self) -> Throttle:
        """Who has guessed wrong how often over SFTP."""
        return self._attempts.throttle

    async def serve(self, listener: trio.SocketListener, work: Work | None = None) -> None:
        """Answer helpers until cancelled."""
        work = Work() if work is None else work

        async def connection(stream: trio.SocketStream) -> None:
            with work:
                await self._connection(stream)

        await serve_connections(self._logger, listener, connection, work)

    async def _connection(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        async with stream:
            answer = NO
            try:
                with trio.fail_after(REQUEST_TIMEOUT_S):
                    fields = parse(await _read_all(stream))
                question = self._table.get(fields.get("op", b""))
                if question is None or peer.uid not in question.uids:
                    self._logger.warning(
                        "question refused",
                        op=fields.get("op", b"").decode("utf-8", "backslashreplace"),
                        uid=peer.uid,
                        pid=peer.pid,
                    )
                else:
                    answer = await question.handler(fields, peer)
            except (ValueError, trio.TooSlowError) as exc:
                self._logger.warning("bad question", error=str(exc), uid=peer.uid, pid=peer.pid)
            except HatchwayError as exc:
                self._logger.error("question not answered", error=str(exc), uid=peer.uid)
            except trio.BrokenResourceError:
                return
            except Exception:
                self._logger.exception("question not answered", uid=peer.uid)
            try:
                await stream.send_all(f"{'ok' if answer.ok else 'no'}\n{answer.payload}".encode())
            except trio.BrokenResourceError:
                self._logger.info("the helper left before its answer", pid=peer.pid)

    async def _keys(self, fields: Mapping[str, bytes], _peer: Peer) -> Answer:
        """Which keys may log in. Asked for keys nobody has proved to hold, so nothing is counted here."""
        record = await self._record(fields)
        facts = self._admission.facts(record, address="")
        if record is None:
            return NO
        if (denial := decide_keys(facts)) is not None:
            # To the client its key is wrong, and sshd knows no better: somebody must be able to find out why.
            self._logger.info("keys withheld", login=record.login, reason=str(denial))
            self._journal.refused(record.login, "", f"no key is looked at: {denial}")
            return NO
        # What sshd can tell by itself it need not ask us: the decision is the same, and made again when it is known.
        allowed = ",".join(record.conditions.allowed_from)
        valid = await self._admission.valid(record, await self._admission.in_volumes(record))
        lines = [
            key.line(allowed_from=allowed, expires_at=facts.expires_at, expiry_known=self._expiry_known)
            for key in valid.keys
            if not has_passed(key.facts.expires_at, facts.now)
        ]
        return Answer(bool(lines), "".join(f"{line}\n" for line in lines))

    async def _auth(self, fields: Mapping[str, bytes], _peer: Peer) -> Answer:
        """Whether the password is right. Takes the same time for a login that does not exist."""
        if await self._is_doctors(fields):
            return NO
        login, address = _text(fields, "login"), _text(fields, "rhost")
        record = await self._record(fields)
        found = await self._core.db(lambda registry: registry.credentials(login))
        password = next((one for one in found if one.kind is CredentialKind.PASSWORD), None)
        attempt = fields.get("password", b"")

        def verify() -> bool:
            right = passwords.verify(passwords.DUMMY if password is None else password.public, attempt)
            return right and password is not None

        # Whatever cannot be a login is one to guess at: else each would have guesses of its own.
        name = login if valid_login(login) else ""
        try:
            slow = password is not None and passwords.is_slow(password.public)
            right = await self._attempts.check(addresses.address(address), name, verify, slow=slow)
        except UncheckedError as exc:
            more = {} if exc.wait_s is None else {"wait_s": round(exc.wait_s)}
            return self._refused(login, address, f"password not looked at: {exc}", "password refused", **more)
        if record is not None and not record.grants and not right:
            # No account of that name is published, so sshd asks with a password of its own (sshd's fake password):
            # whether somebody guessed cannot be told.
            return self._refused(login, address, Denial.NOTHING_SHARED, "password refused")
        if password is None or not right:
            if password is not None:
                await self._admission.guessed_wrong(Login(login))
            return self._refused(login, address, "wrong password", "password refused")
        if not self._service_ok(fields):
            return self._refused(login, address, Denial.WRONG_SERVICE)
        self._proved.note(_connection(fields), password.id)
        if passwords.needs_rehash(password.public):
            await self._rehash(password, attempt)
        return Answer(True)

    async def _rehash(self, password: CredentialRecord, right: bytes) -> None:
        """Keep a password as we hash them, now that it is known: it was imported, or is from before."""
        try:
            anew = await self._attempts.in_thread(lambda: passwords.hash_attempt(right))
            await self._core.db(lambda registry: registry.rehash(password.id, password.public, anew))
        except Exception:
            # It is right, and stays as it is.
            self._logger.exception("password not hashed anew")

    async def _account(self, fields: Mapping[str, bytes], _peer: Peer) -> Answer:
        """Whether the login may enter at all, from there."""
        if await self._is_doctors(fields):
            return NO
        record = await self._record(fields)
        denial = decide_login(await self._facts(record, fields))
        if denial is not None:
            return self._refused(_text(fields, "login"), _text(fields, "rhost"), denial)
        return Answer(True)

    async def _open(self, fields: Mapping[str, bytes], peer: Peer) -> Answer:
        """Whether the login may enter with the credential it used; then its volumes are mounted."""
        login, address = _text(fields, "login"), _text(fields, "rhost")
        record = await self._record(fields)
        if record is None:
            return self._refused(login, address, Denial.UNKNOWN_LOGIN)
        method, key = used_credential(fields.get("authinfo", b""))
        proved = self._proved.take(_connection(fields)) if method == "password" else None
        in_volumes = NOTHING
        if key is not None and record.conditions.volume_keys:
            # Nobody has a volume read who is refused anyway.
            denial = decide_login(await self._facts(record, fields))
            if denial is not None:
                return self._refused(login, address, denial)
            in_volumes = await self._admission.in_volumes(record, key)
        async with self._core.turn(record.login):
            # Again, now that nothing can be taken away before hostd has heard of this session.
            record = await self._record(fields)
            facts = await self._facts(record, fields)
            if record is None:
                return self._refused(login, address, Denial.UNKNOWN_LOGIN)
            used = (await self._admission.valid(record, in_volumes)).used(method, key, proved)
            denial = decide_session(facts, used.credential)
            if denial is not None:
                return self._refused(login, address, denial)
            await self._core.open_session(
                record, address=address, method=method, key=key, credential_id=used.id, pid=peer.pid
            )
        self._admission.opened(record.login)
        return Answer(True)

    async def _is_doctors(self, fields: Mapping[str, bytes]) -> bool:
        """Whether `hatchway doctor` tries if a stranger is refused, which is not to be in log and record each time.

        Nobody can guess unrecorded by that: only root asks us this, sshd always says from which address somebody comes,
        and there is no such login, so whatever the password is, the answer is no.
        """
        login = _text(fields, "login")
        if _text(fields, "rhost") or not is_probe(login):
            return False
        if await self._core.db(lambda registry: registry.by_login(Login(login))) is not None:
            return False
        self._logger.debug("doctor's login refused", login=login)
        return True

    async def _record(self, fields: Mapping[str, bytes]) -> LoginRecord | None:
        login = _text(fields, "login")
        if not valid_login(login):
            return None
        return await self._core.db(lambda registry: registry.by_login(Login(login)))

    async def _facts(self, record: LoginRecord | None, fields: Mapping[str, bytes]) -> LoginFacts:
        return self._admission.facts(
            record,
            address=_text(fields, "rhost"),
            service_is_ours=self._service_ok(fields),
            sessions=0 if record is None else await self._admission.sessions(record.login),
        )

    def _service_ok(self, fields: Mapping[str, bytes]) -> bool:
        config = self._core.config
        service = _text(fields, "service")
        if service == dropin.SERVICE:
            # The host's own, which has other ports too. SSH_CONNECTION ends with the one that was connected to.
            port = _text(fields, "connection").rpartition(" ")[2]
            return port == str(config.sshd.port) and dropin.in_place(config)
        return service == config.sshd.pam_service

    def _refused(self, login: str, address: str, reason: str, what: str = "login refused", **more: int) -> Answer:
        """No, and a note of it. `what` is what fail2ban looks for (fail2ban/hatchway.conf), `more` is for the log."""
        who = {"login": login[:LOGGED_MAX], "address": address[:LOGGED_MAX]}
        self._logger.warning(what, **who, reason=str(reason), **more)
        self._journal.refused(login, address, str(reason))
        return NO


class Proved:
    """Which password each connection has proved to know, until its session is opened.

    sshd says at the session stage that a password was used, not which; it may have been changed since. A connection is
    told from others by its addresses and ports, and there are never two with the same at once.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()

    def note(self, connection: str, credential: int) -> None:
        """`connection` knows the password in row `credential`."""
        self._known[connection] = credential
        self._known.move_to_end(connection)
        while len(self._known) > PROVED_MAX:
            self._known.popitem(last=False)

    def take(self, connection: str) -> int | None:
        """Which it was, and forget it. None when it was none, or before this process was started."""
        return self._known.pop(connection, None)


def parse(request: bytes) -> dict[str, bytes]:
    """The fields of a request. Raises ValueError for anything but `key=value` NUL `key=value` …, or for a key twice."""
    fields: dict[str, bytes] = {}
    for field in request.split(b"\0"):
        key, equals, value = field.partition(b"=")
        name = key.decode("ascii", "replace")
        if not equals or not name.isalpha() or name in fields:
            raise ValueError(f"bad field {name[:20]!r}")
        fields[name] = value
    return fields


def used_credential(auth_info: bytes) -> tuple[str, str | None]:
    """Method and key fingerprint from SSH_AUTH_INFO_0 (sshd_config(5), ExposeAuthInfo): the last method that counted.

    Returns ("", None) for anything we do not know.
    """
    lines = [line for line in auth_info.decode("ascii", "replace").splitlines() if line.strip()]
    if len(lines) != 1:
        return "", None
    method, _, rest = lines[0].strip().partition(" ")
    if method == "password" and not rest:
        return "password", None
    if method == "publickey" and rest:
        try:
            return "publickey", keys.fingerprint(rest)
        except (ValueError, HatchwayError):
            return "", None
    return "", None


def _connection(fields: Mapping[str, bytes]) -> str:
    return f"{_text(fields, 'login')} {_text(fields, 'connection')}"


def _text(fields: Mapping[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


async def _read_all(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while chunk := await stream.receive_some(65536):
        data += chunk
        if len(data) > MAX_REQUEST:
            raise ValueError("the request is too long")
    return bytes(data)
