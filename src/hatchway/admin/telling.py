"""What people are told, and whoever opened a share link, and what of the same answers is the host's affair: its paths,
its commands, and who of its operators did something from where. Pure.

Answers are made for operators. Here, once, each becomes one for somebody else, so that no page and no handler has to
know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec import structs

from hatchway.admin import hindering, personal
from hatchway.errors import (
    ConflictError,
    HatchwayError,
    HostError,
    NotFoundError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
    UsageError,
)
from hatchway.model import UNSAID, EventKind
from hatchway.wire.admin import ConnectionInfo, Log, LogEntry, PersonStatus, PersonVolume, Server, VolumeStatus
from hatchway.wire.entry import ConditionsStatus, Hindrance, KeyExport, Keys, Kicked, Password, Sessions

T = TypeVar("T")

THE_OPERATOR = "the operator"

_PROBLEMS = {
    personal.ANOTHER: "another volume stands there than the one that was shared with you",
    personal.COVERED: "another volume of yours stands there",
    personal.NOT_THERE: "it is not there at the moment",
}
_NO_PROBLEM = "it cannot be shared at the moment"
_MAY_NOT_WORK = Hindrance("logging in may not work at the moment: the operator's log says why")
_NOT_COUNTED = "it could not be counted"
_NOT_ENDED = "that is tried until it is done"
_ABOUT_THE_REQUEST = (
    UsageError,
    NotFoundError,
    ConflictError,
    RefusedError,
    SignInError,
    SignInWaitError,
    SignedOutError,
)


def to_person(answer: T, login: str) -> T:
    """`answer`, as the person with this login may see it."""
    found: object = answer
    match answer:
        case ConnectionInfo():
            found = _connection(answer)
        case ConditionsStatus():
            found = _conditions(answer)
        case Keys():
            found = structs.replace(answer, problems=(), undelivered=(), not_ended=answer.not_ended and _NOT_ENDED)
        case Password():
            found = structs.replace(answer, not_ended=answer.not_ended and _NOT_ENDED)
        case Log():
            # Numbers of events are the host's, and tell how many there were of anybody's.
            found = structs.replace(answer, entries=tuple(_entries(answer.entries, login)), last=0)
        case Kicked() | KeyExport() | Server() | Sessions():
            pass
        case _:
            # What a handler answers is an operator's until somebody has looked at it here.
            raise RefusedError("this is not for you")
    return found  # type: ignore[return-value] # of the type it was


def to_link(answer: object) -> object:
    """`answer`, as whoever opened a share link may see it: of its instance that by which one connects."""
    if isinstance(answer, KeyExport | Password | Server):
        return answer
    if not isinstance(answer, ConnectionInfo) or answer.instance is None:
        raise RefusedError("this is not for you")
    instance, problems = answer.instance, []
    volumes = tuple(_of_instance(one) for one in instance.volumes if one.session_path is not None)
    conditions = _conditions(answer.conditions)
    if not volumes:
        problems.append(Hindrance("nothing is shared at the moment, so there is nothing to connect to"))
    known = (*hindering.of_instance(instance), *answer.conditions.hindrances)
    if any(one not in known for one in answer.problems):
        problems.append(_MAY_NOT_WORK)
    problems += conditions.hindrances
    instance = structs.replace(instance, runtime_name="", image="", user="", volumes=volumes, sessions=0)
    return structs.replace(answer, instance=instance, conditions=conditions, problems=tuple(problems))


def _of_instance(volume: VolumeStatus) -> VolumeStatus:
    size = volume.size
    if size is not None and size.problem:
        size = structs.replace(size, problem=_NOT_COUNTED)
    return VolumeStatus(
        path=volume.path,
        name="",
        kind=volume.kind,
        driver="",
        read_only=volume.read_only,
        access=volume.access,
        session_path=volume.session_path,
        limits=volume.limits,
        size=size,
    )


def failure(exc: HatchwayError) -> HatchwayError:
    """What a person is told of `exc`: what they did wrong as it is, and of what the host could not do only that."""
    if type(exc) in _ABOUT_THE_REQUEST:
        return exc
    return HostError("this could not be done to its end; if that does not pass, tell the operator of this host")


def _connection(info: ConnectionInfo) -> ConnectionInfo:
    person, problems = info.person, []
    if person is not None:
        problems = [Hindrance(text) for text in _of_volumes(person)]
        known = hindering.of_person(person)
        person = structs.replace(person, volumes=tuple(_volume(one) for one in person.volumes))
        if any(one not in known and one not in info.conditions.hindrances for one in info.problems):
            problems.append(_MAY_NOT_WORK)
    conditions = _conditions(info.conditions)
    problems += conditions.hindrances
    return structs.replace(info, person=person, conditions=conditions, problems=tuple(problems))


def _of_volumes(person: PersonStatus) -> Iterable[str]:
    if not person.volumes:
        yield "nothing is shared with you yet, so there is nothing to connect to"
    elif not any(volume.access.is_on for volume in person.volumes):
        yield "nothing that is shared with you can be reached now, so there is nothing to connect to"


def _volume(volume: PersonVolume) -> PersonVolume:
    size = volume.size
    if size is not None and size.problem:
        size = structs.replace(size, problem=_NOT_COUNTED)
    problem = volume.problem and _PROBLEMS.get(volume.problem, _NO_PROBLEM)
    return structs.replace(volume, problem=problem, size=size, driver="", granted_by="", ownership=UNSAID)


def _conditions(conditions: ConditionsStatus) -> ConditionsStatus:
    hindrances = (Hindrance("nobody can enter by this login now: ask the operator"),) if conditions.hindrances else ()
    return structs.replace(conditions, locked_why="", hindrances=hindrances)


def _entries(entries: Iterable[LogEntry], login: str) -> Iterable[LogEntry]:
    for one in entries:
        own = one.login == login and one.who.startswith(f"person {login} (web)")
        # What somebody else tried and did not do is none of theirs.
        if own or one.done or one.kind not in (EventKind.CHANGE, EventKind.GUEST):
            yield _entry(one, own=own)


def _entry(entry: LogEntry, *, own: bool) -> LogEntry:
    entry = structs.replace(entry, id=None if entry.id is None else 0)
    if own:
        entry = structs.replace(entry, who=f"you{entry.who.removeprefix(f'person {entry.login}')}")
    # Behind the colon stand reasons as operators write them, and what the host says of itself.
    first, _, _ = entry.what.partition(": ")
    match entry.kind:
        case EventKind.LOGIN | EventKind.LOCKED | EventKind.LOST:
            return entry
        case EventKind.REFUSED:
            before, failed, _ = entry.what.partition("not let in: ")
            return structs.replace(entry, what=f"{before}not let in" if failed else entry.what)
        case EventKind.END:
            return structs.replace(entry, what=first)
        case _ if own:
            return structs.replace(entry, what=first)
        case _:
            return structs.replace(entry, what=first, who=entry.who and THE_OPERATOR)
