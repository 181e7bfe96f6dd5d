"""The auth socket: what sshd's helpers ask, and the answers.

The helpers start with every login and must be cheap, so this protocol is not our frames but the least that a script
with nothing but the standard library can speak: fields `key=value` with a NUL between them, the first `op=…`, then
the end of the stream. The first line of the answer is `ok` or `no`, the rest is payload. Everything asked here comes,
in the end, from a stranger. A refusal never says why: the log does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import trio

from hatchway import log
from hatchway.access.decision import CredentialFacts, Denial, LoginFacts, decide_login, decide_session
from hatchway.admin import shares
from hatchway.admin.core import Core
from hatchway.credentials import keys, passwords
from hatchway.errors import HatchwayError
from hatchway.model import Login, valid_login
from hatchway.registry.records import CredentialKind, InstanceRecord
from hatchway.wire.service import Peer, peer_of, serve_connections

MAX_REQUEST = 32 * 1024
"""Bytes. SSH_AUTH_INFO_0 holds the key used: an RSA key of 16384 bits is 2.8 kB."""

REQUEST_TIMEOUT_S = 10.0
"""How long a helper may take to send its request; it sends at once."""

PARALLEL_HASHES = 2
"""argon2id takes 64 MiB a piece: a flood of attempts queues instead of using up memory and processors."""


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
    """Answers the helpers. `keys_uid` is the uid sshd runs the key helper as."""

    def __init__(self, core: Core, keys_uid: int) -> None:
        self._core = core
        self._hashing = trio.CapacityLimiter(PARALLEL_HASHES)
        self._logger = log.get(socket="auth")
        self._table = {
            b"keys": Question((keys_uid,), self._keys),
            b"auth": Question((0,), self._auth),
            b"account": Question((0,), self._account),
            b"open": Question((0,), self._open),
        }

    async def serve(self, listener: trio.SocketListener) -> None:
        """Answer helpers until cancelled."""
        await serve_connections(self._logger, listener, self._connection)

    async def _connection(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        async with stream:
            answer = NO
            try:
                with trio.fail_after(REQUEST_TIMEOUT_S):
                    fields = parse(await _read_all(stream))
                question = self._table.get(fields.get("op", b""))
                if question is None or peer.uid not in question.uids:
                    self._logger.warning("question refused", op=repr(fields.get("op")), uid=peer.uid, pid=peer.pid)
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
        if record is None or decide_login(self._facts(record, ours=True)) is not None:
            return NO
        login = record.login
        found = await self._core.db(lambda registry: registry.credentials(login))
        # `restrict` turns off everything but the forced command (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
        lines = [f"restrict {credential.public}\n" for credential in found if credential.kind is CredentialKind.KEY]
        return Answer(bool(lines), "".join(lines))

    async def _auth(self, fields: Mapping[str, bytes], _peer: Peer) -> Answer:
        """Whether the password is right. Takes the same time for a login that does not exist."""
        login = _text(fields, "login")
        found = await self._core.db(lambda registry: registry.credentials(login))
        encoded = next((c.public for c in found if c.kind is CredentialKind.PASSWORD), None)
        attempt = fields.get("password", b"")
        right = await trio.to_thread.run_sync(
            passwords.verify, encoded or passwords.DUMMY, attempt, limiter=self._hashing
        )
        if encoded is not None and right and self._service_ok(fields):
            return Answer(True)
        self._logger.warning("password refused", login=login, address=_text(fields, "rhost"))
        return NO

    async def _account(self, fields: Mapping[str, bytes], _peer: Peer) -> Answer:
        """Whether the login may enter at all."""
        record = await self._record(fields)
        denial = decide_login(self._facts(record, ours=self._service_ok(fields)))
        if denial is not None:
            self._denied(fields, denial)
            return NO
        return Answer(True)

    async def _open(self, fields: Mapping[str, bytes], peer: Peer) -> Answer:
        """Whether the login may enter with the credential it used; then its volumes are mounted."""
        record = await self._record(fields)
        if record is None:
            self._denied(fields, Denial.UNKNOWN_LOGIN)
            return NO
        login = record.login
        method, key = used_credential(fields.get("authinfo", b""))
        async with self._core.turn(login):
            # Again, now that nothing can be taken away before hostd has heard of this session.
            record = await self._record(fields)
            found = await self._core.db(lambda registry: registry.credentials(login))
            keys_now = {c.fingerprint for c in found if c.kind is CredentialKind.KEY and c.fingerprint is not None}
            credential = CredentialFacts(
                method=method,
                key=key,
                valid_keys=frozenset(keys_now),
                has_password=any(c.kind is CredentialKind.PASSWORD for c in found),
            )
            denial = decide_session(self._facts(record, ours=self._service_ok(fields)), credential)
            if denial is not None or record is None:
                self._denied(fields, denial or Denial.UNKNOWN_LOGIN)
                return NO
            address = _text(fields, "rhost")
            await self._core.open_session(record, address=address, method=method, key=key, pid=peer.pid)
        return Answer(True)

    async def _record(self, fields: Mapping[str, bytes]) -> InstanceRecord | None:
        login = _text(fields, "login")
        if not valid_login(login):
            return None
        return await self._core.db(lambda registry: registry.by_login(Login(login)))

    def _facts(self, record: InstanceRecord | None, *, ours: bool) -> LoginFacts:
        live = 0 if record is None else len(shares.live_grants(record, self._core.inventory))
        return LoginFacts(known=record is not None, shares=live, service_is_ours=ours)

    def _service_ok(self, fields: Mapping[str, bytes]) -> bool:
        return _text(fields, "service") == self._core.config.sshd.pam_service

    def _denied(self, fields: Mapping[str, bytes], denial: Denial) -> None:
        login, address = _text(fields, "login"), _text(fields, "rhost")
        self._logger.warning("login refused", login=login, address=address, reason=str(denial))


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


def _text(fields: Mapping[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


async def _read_all(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while chunk := await stream.receive_some(65536):
        data += chunk
        if len(data) > MAX_REQUEST:
            raise ValueError("the request is too long")
    return bytes(data)
