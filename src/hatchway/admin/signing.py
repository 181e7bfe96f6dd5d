"""Signing in to the web pages and out again, and whether who is signed in still may be.

The web process says from where somebody comes. It may be broken into, or a proxy in front of it be believed that must
not be: so wrong passwords here are counted apart from those of SFTP, though by the same rules. Nobody can have an
address or a login kept out of SFTP by what is claimed here; an address that guesses over SFTP waits here, too. And a
name counts as one to sign in by here, never as the login of the same name; whether a person's or not does not show.

A name that is a person's is theirs, and no operator's: no person is made with a name that the host has an account of.
Their password is that of SFTP, and can be guessed at here as well: as often as there, at most. Where wrong guesses lock
a login (login.lock_after), those here count with those there: then a broken web process can lock people out, as whoever
knows their logins can.

A link's token cannot be guessed. Who tries some none the less waits as for a password, and so does who guesses at the
passphrase of one.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from hatchway import addresses, log
from hatchway.access.attempts import Attempts, UncheckedError
from hatchway.access.throttle import Throttle
from hatchway.addresses import Address
from hatchway.admin.callers import Caller
from hatchway.admin.journal import Journal
from hatchway.admin.person_door import Known, PersonDoor
from hatchway.admin.share_links import LinkDoor
from hatchway.admin.visits import Visit, Visits
from hatchway.config import Web
from hatchway.errors import (
    NotRunningError,
    PassphraseError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
)
from hatchway.model import EventKind
from hatchway.registry.records import NewEvent
from hatchway.wire import frames
from hatchway.wire.entry import Password
from hatchway.wire.signin import NAME_MAX, PASSWORD_MAX, CheckPassword, CheckStanding, Verdict
from hatchway.wire.web import (
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

FAILURE_S = 2.0
"""Who is refused is refused after so many seconds at the earliest: longer than PAM takes by itself, so that it does not
show whether there is such an operator."""

HOLD_S = 1.5
"""Who is refused has one of few turns for so many seconds at the least, for the same reason: longer than the helper
takes for a no (signin.checking.REFUSED_S), and a person's password besides. Others wait as long behind each."""

LOOK_EVERY_S = 30.0
"""How old, in seconds, may be what is known of whether somebody who is signed in still may be."""

ASK_S = 20.0
"""Longest wait for the helper, which gives a question up by itself before."""

LOGGED_MAX = 64
"""Characters of what a stranger says that are logged."""

WRONG = "the name or the password is wrong, or this account may not sign in here"
"""What everybody is told who may not sign in."""

NO_LINK = (
    "this link opens nothing: it is not whole, or was used up, has expired, or was taken back. Ask whoever sent it for "
    "a new one"
)
"""What everybody is told whose link opens nothing."""

REFUSED = "signing in to the web pages: wrong name or password, or no operator"
UNCHECKED = "signing in to the web pages, not looked at: too many guesses"
"""What the record says of it."""

NOT_CHANGED = "changing the password in the web pages: wrong current password"
NOT_CHANGED_UNCHECKED = "changing the password in the web pages, not looked at: too many guesses"
"""What the record says of that."""

Ask = Callable[[CheckPassword | CheckStanding], Awaitable[Verdict]]


def helper(path: str) -> Ask:
    """Asks the helper that listens at `path`. Raises NotRunningError."""

    async def ask(question: CheckPassword | CheckStanding) -> Verdict:
        return await frames.call(path, question, Verdict, ASK_S)

    return ask


def guesses(beside: Throttle) -> Attempts:
    """Those at the web pages; who guesses over SFTP, which is `beside`, waits here too."""
    return Attempts(failure_s=FAILURE_S, hold_s=HOLD_S, beside=beside)


def _of_name(name: str) -> str:
    """By what guesses at a name are counted, which does not say whether it is a person's. All spellings of a name are
    one, whatever the name services think of them. No login has a space."""
    return f"sign-in {name.casefold()}"


class Signing:
    """All who are signed in. `ask` asks the helper, `now` gives Unix time in seconds, `clock` those of one that never
    goes back."""

    def __init__(
        self,
        config: Web,
        journal: Journal,
        attempts: Attempts,
        ask: Ask,
        people: PersonDoor,
        links: LinkDoor,
        now: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._visits = Visits(config.session_idle_s, config.session_s)
        self._journal = journal
        self._attempts = attempts
        self._ask = ask
        self._people = people
        self._links = links
        self._now = now
        self._clock = clock
        self._logger = log.get(socket="web")

    async def sign_in(self, request: SignIn) -> SignedIn:
        """Raises SignInError, SignInWaitError, and NotRunningError when nobody can sign in now."""
        address = addresses.address(request.address)
        place = "" if address is None else str(address)
        # What is longer than can be right is asked for as nothing, which takes as long.
        name = request.name if len(request.name) <= NAME_MAX else ""
        password = request.password if len(request.password.encode()) <= PASSWORD_MAX else ""
        known = await self._people.known(name)
        try:
            if known is not None:
                return await self._sign_in_person(known, password, address, place)
            return await self._sign_in_operator(name, password, address, place)
        except UncheckedError as exc:
            self._refused(request.name, place, str(exc), UNCHECKED)
            raise SignInWaitError(_wait(exc.wait_s)) from None

    async def _sign_in_person(self, known: Known, password: str, address: Address | None, place: str) -> SignedIn:
        login, reason = known.record.login, "wrong password"
        slow = self._people.is_slow(known)
        away: NotRunningError | None = None

        async def right() -> bool:
            nonlocal reason, away
            if await self._attempts.in_thread(lambda: self._people.verify(known, password)):
                reason = self._people.denial(known, address)
                return not reason
            await self._people.guessed_wrong(known)
            # Where nobody can be asked of operators, all who are refused are told the same: who is a person and who is
            # not must not show.
            try:
                await self._asked(CheckStanding(name=login, uid=known.record.uid))
            except NotRunningError as exc:
                away = exc
            return False

        if await self._attempts.ask(address, _of_name(login), right, slow=slow) and known.password is not None:
            begun = self._visits.begin(
                ViewerKind.PERSON, login, known.record.uid, self._clock(), credential=known.password.id
            )
            return await self._begun(*begun, place)
        self._refused(login, place, reason, REFUSED)
        raise away or SignInError(WRONG)

    async def _sign_in_operator(self, name: str, password: str, address: Address | None, place: str) -> SignedIn:
        verdict = Verdict(operator=None)
        away: NotRunningError | None = None

        async def right() -> bool:
            nonlocal verdict, away
            try:
                verdict = await self._asked(CheckPassword(name=name, password=password, address=place))
            except NotRunningError as exc:
                # Counted as a wrong one is, as it would be of a person.
                away = exc
            return verdict.operator is not None

        await self._attempts.ask(address, _of_name(name), right)
        if verdict.operator is None:
            self._refused(name, place, verdict.reason if away is None else str(away), REFUSED)
            raise away or SignInError(WRONG)
        operator = verdict.operator
        return await self._begun(
            *self._visits.begin(ViewerKind.OPERATOR, operator.name, operator.uid, self._clock()), place
        )

    async def open_link(self, request: OpenLink) -> SignedIn:
        """Raises SignInError, PassphraseError and SignInWaitError."""
        address = addresses.address(request.address)
        place = "" if address is None else str(address)
        link = await self._links.known(request.token)
        if link is not None and link.passphrase is not None and not request.passphrase:
            raise PassphraseError("this link asks for a passphrase, which you were told on another way")
        called = "a link" if link is None else f"link {link.name}"
        used = wrong = False

        async def right() -> bool:
            nonlocal used, wrong
            # Others may have guessed wrong while this one waited.
            if link is None or not await self._links.known(request.token):
                return False
            if not await self._attempts.in_thread(lambda: self._links.passes(link, request.passphrase)):
                await self._links.miss(link)
                wrong = True
                return False
            used = await self._links.use(link)
            return True

        try:
            await self._attempts.ask(address, called, right)
        except UncheckedError as exc:
            self._refused("", place, str(exc), f"{called} not looked at: too many guesses")
            raise SignInWaitError(_wait(exc.wait_s)) from None
        if link is not None and used:
            most_s = link.expires_at - self._now()
            begun = self._visits.begin(
                ViewerKind.LINK, str(link.key), -1, self._clock(), link.id, link=link.name, most_s=most_s
            )
            return await self._begun(*begun, place)
        if link is not None and wrong:
            self._refused("", place, "wrong passphrase", f"{called}: wrong passphrase", str(link.key))
            raise PassphraseError("the passphrase is wrong")
        self._refused("", place, "it opens nothing", f"{called} opens nothing")
        raise SignInError(NO_LINK)

    async def _begun(self, token: str, visit: Visit, place: str) -> SignedIn:
        caller = caller_of(visit, place)
        self._logger.info("signed in", by=caller.name, address=place)
        self._record("opened" if visit.kind is ViewerKind.LINK else "signed in", caller, visit)
        return SignedIn(token=token, viewer=await self._viewer(visit))

    async def who_is(self, request: WhoIs) -> Viewer:
        """Raises SignedOutError, and NotRunningError when it cannot be told now."""
        return await self._viewer(await self.visit(request.token))

    async def visit(self, token: str, place: str | None = None) -> Visit:
        """The visit that `token` is for, of somebody who still may be here, and asks from the address `place`.

        Raises as `who_is`.
        """
        visit = self._found(token)
        if visit.kind is ViewerKind.PERSON:
            # Nobody outside is to be asked, so what is taken away from people holds at once. Not while the visit itself
            # changes the password, and is not bound to it yet.
            async with visit.looking:
                if reason := await self._people.standing(visit.name, visit.uid, visit.credential, place):
                    self._end(token, visit, reason)
            return self._found(token)
        if visit.kind is ViewerKind.LINK:
            if reason := await self._links.standing(visit.credential):
                self._end(token, visit, reason)
            return self._found(token)
        if self._clock() - visit.looked_at < LOOK_EVERY_S:
            return visit
        # One look is enough for all that a page asks at once.
        async with visit.looking:
            visit = self._found(token)
            if self._clock() - visit.looked_at >= LOOK_EVERY_S:
                await self._look(visit)
        return self._found(token)

    async def _look(self, visit: Visit) -> None:
        began = self._clock()
        verdict = await self._asked(CheckStanding(name=visit.name, uid=visit.uid))
        if verdict.operator is not None:
            visit.looked_at = began
        elif self._visits.end_all(visit.kind, visit.name):
            caller = caller_of(visit)
            self._logger.warning("signed out, not an operator any more", by=caller.name, reason=verdict.reason)
            self._record(f"signed out: {verdict.reason}", caller, visit)

    def _end(self, token: str, visit: Visit, reason: str) -> None:
        if self._visits.end(token, self._clock()) is not None:
            caller = caller_of(visit)
            self._logger.warning("signed out", by=caller.name, reason=reason)
            self._record(f"signed out: {reason}", caller, visit)

    async def sign_out(self, request: SignOut) -> SignedOut:
        """Also where there is no such token."""
        visit = self._visits.end(request.token, self._clock())
        if visit is not None:
            caller = caller_of(visit)
            self._logger.info("signed out", by=caller.name)
            self._record("signed out", caller, visit)
        return SignedOut()

    async def change_password(self, request: ChangePassword) -> Password:
        """Raises RefusedError for whoever is no person, UsageError, SignInError, SignInWaitError.

        A stolen token guesses no better than whoever has none: it is counted as signing in is.
        """
        visit = await self.visit(request.token, request.address)
        address = addresses.address(request.address)
        caller = caller_of(visit, "" if address is None else str(address))
        known = await self._people.known(visit.name) if visit.kind is ViewerKind.PERSON else None
        if known is None:
            raise RefusedError("only people change their password here")
        login, place = known.record.login, "" if address is None else str(address)
        current = request.current if len(request.current.encode()) <= PASSWORD_MAX else ""

        async def right() -> bool:
            if await self._attempts.in_thread(lambda: self._people.verify(known, current)):
                return True
            await self._people.guessed_wrong(known)
            return False

        try:
            if not await self._attempts.ask(address, _of_name(login), right, slow=self._people.is_slow(known)):
                self._refused(login, place, "wrong current password", NOT_CHANGED)
                raise SignInError("the current password is wrong; nothing was changed")
        except UncheckedError as exc:
            self._refused(login, place, str(exc), NOT_CHANGED_UNCHECKED)
            raise SignInWaitError(_wait(exc.wait_s)) from None
        await self.visit(request.token)

        def made(credential: int) -> None:
            # This visit knows the password; the others end when they ask next.
            visit.credential = credential
            self._logger.info("password changed", login=login, by=caller.name)
            told = NewEvent(self._now(), caller.kind, "password changed", login, login, who=caller.origin)
            self._journal.record(told)

        async with visit.looking:
            return await self._people.change_password(known, request.password, request.kind, made)

    def _found(self, token: str) -> Visit:
        visit = self._visits.find(token, self._clock())
        if visit is None:
            raise SignedOutError("you are signed out: sign in again")
        return visit

    async def _asked(self, question: CheckPassword | CheckStanding) -> Verdict:
        try:
            return await self._ask(question)
        except NotRunningError as exc:
            self._logger.error("operators cannot be looked at", error=str(exc))
            raise NotRunningError("whether you may sign in cannot be looked at now: Hatchway's log says why") from None

    async def _viewer(self, visit: Visit) -> Viewer:
        uses_left = await self._links.uses_left(visit.credential) if visit.kind is ViewerKind.LINK else None
        expires_at = self._now() + visit.ends_at - self._clock()
        return Viewer(kind=visit.kind, name=visit.name, expires_at=expires_at, uses_left=uses_left)

    def _refused(self, name: str, place: str, reason: str, told: str, instance: str = "") -> None:
        self._logger.warning("sign-in refused", name=name[:LOGGED_MAX], address=place, reason=reason)
        self._journal.refused(name, place, told, instance)

    def _record(self, what: str, caller: Caller, visit: Visit) -> None:
        # What is done by a link is its instance's; what a person does, theirs.
        whose = "" if visit.kind is ViewerKind.OPERATOR else visit.name
        login = visit.name if visit.kind is ViewerKind.PERSON else ""
        self._journal.record(NewEvent(self._now(), caller.kind, what, whose, login, who=caller.origin))


def caller_of(visit: Visit, place: str = "") -> Caller:
    """Who makes the requests of a visit, from the address `place`, "" when it is not known."""
    name = f"{visit.kind.value} {visit.link or visit.name} (web)"
    kind = EventKind.CHANGE if visit.kind is ViewerKind.OPERATOR else EventKind.GUEST
    return Caller(name, f"{name} from {place}" if place else name, kind)


def _wait(wait_s: float | None) -> str:
    if wait_s is None:
        return "too many sign in at once: try again in a moment"
    return f"too many wrong attempts from your address: try again in {max(1, math.ceil(wait_s))} s"
