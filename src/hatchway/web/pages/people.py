"""People, as operators see to them: who there is, what is shared with each, and giving and taking it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import ConflictError, NotFoundError, UnfinishedError, UsageError
from hatchway.model import UNSAID, InstanceKey, Mode, parse_instance_key
from hatchway.printable import escaped
from hatchway.web import paths, whose
from hatchway.web.pages import tree
from hatchway.web.pages.instance import LATEST, attempt, find
from hatchway.web.visit import Doors, Visit, sentence, to_page
from hatchway.wire.admin import (
    ConnectionInfo,
    Listing,
    ListInstances,
    Log,
    PersonStatus,
    PersonVolume,
    ReadLog,
    Show,
    VolumeStatus,
)
from hatchway.wire.entry import Keys, ListKeys, ListSessions, Sessions
from hatchway.wire.people import (
    FULL_NAME_MAX,
    AddPerson,
    GrantPerson,
    ListPeople,
    People,
    PersonChanged,
    PersonRemoved,
    RemovePerson,
    RevokePerson,
)

PAGE = 100
"""People on one page."""

FOUND_MAX = 50
"""Instances that a search for one to share names."""

LOGIN_MAX = 31
FOLDER_MAX = 4000

STATES = {"sessions": "In use", "nothing": "Nothing shared", "care": "Needs attention"}

_HERE = whose.OF_PERSON
_ADD = "/add-person"
_SHARE = f"{_HERE}/share"


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages and forms."""
    return [
        doors.get("/people", _people),
        doors.get(_ADD, _ask_add),
        doors.post(_ADD, _add, lambda _visit: _ADD, again=_add_form),
        doors.get(_HERE, _person),
        doors.get(f"{_HERE}/remove", _ask_remove),
        doors.post(f"{_HERE}/remove", _remove, lambda _visit: "/people"),
        doors.get(f"{whose.OF_INSTANCE}/people", _choose_person),
        doors.get(_SHARE, _choose),
        doors.get(f"{_SHARE}/{{environment}}/{{container}}/{{number}}", _ask_share),
        doors.post(f"{_SHARE}/{{environment}}/{{container}}/{{number}}", _share, _to_share, again=_share_again),
        doors.post(f"{_HERE}/change", _change, to_page),
        doors.post(f"{_HERE}/revoke", _revoke, to_page),
        doors.get(f"{_HERE}/revoke-all", _ask_revoke_all),
        doors.post(f"{_HERE}/revoke-all", _revoke_all, to_page),
    ]


async def _people(visit: Visit) -> Response:
    everybody = (await visit.ask(ListPeople(), People)).people
    typed, state = visit.asked("q")[: tree.SEARCH_MAX], visit.asked("state")
    words = typed.casefold().split()
    found = [one for one in everybody if _has(one, words) and _is(one, state)]
    last = max(1, -(-len(found) // PAGE))
    number = min(max(1, tree.number_of(visit.asked("page"))), last)
    return visit.page(
        "people.html",
        people=found[(number - 1) * PAGE : number * PAGE],
        total=len(everybody),
        found=len(found),
        first=(number - 1) * PAGE + 1,
        words=typed,
        state=state if state in STATES else "",
        states=STATES,
        number=number,
        last=last,
        size=PAGE,
        needs_care=needs_care,
    )


def _has(one: PersonStatus, words: list[str]) -> bool:
    """Whether every word is in something that names the person or what is shared with them."""
    if not words:
        return True
    texts = [one.login, one.full_name]
    texts += [text for volume in one.volumes for text in (str(volume.key), volume.path, volume.folder, volume.name)]
    whole = "\n".join(texts).casefold()
    return all(word in whole for word in words)


def _is(one: PersonStatus, state: str) -> bool:
    match state:
        case "sessions":
            return one.sessions > 0
        case "nothing":
            return not one.volumes
        case "care":
            return bool(needs_care(one))
        case _:
            return True


def needs_care(one: PersonStatus) -> list[str]:
    """What an operator may want to do something about, in a word each."""
    found = [word for word, is_so in (("locked", one.locked), ("expired", one.expired)) if is_so]
    if any(not volume.access.is_on for volume in one.volumes):
        found.append("suspended")
    if any(volume.refused for volume in one.volumes):
        found.append("no such folder")
    return found


async def _ask_add(visit: Visit) -> Response:
    return visit.page("add-person.html", name_max=FULL_NAME_MAX, problem="", login="", full_name="")


async def _add_form(visit: Visit, problem: str) -> Response:
    login, full_name = visit.typed("login"), visit.typed("full_name")
    values = {"name_max": FULL_NAME_MAX, "problem": problem, "login": login, "full_name": full_name}
    return visit.page("add-person.html", 400, **values)


async def _add(visit: Visit) -> Response:
    login, full_name = visit.field("login", 200).strip(), visit.field("full_name", 1000).strip()
    if not login:
        raise UsageError("enter a login, such as anna")
    changed = await visit.ask(AddPerson(login=login, full_name=full_name), PersonChanged)
    person = whose.of_person(changed.person.login)
    visit.say(f"{login} is added. Nothing is shared with them yet: choose an instance.")
    if changed.password is not None:
        return visit.page("new-password.html", whose=person, password=changed.password, remark="")
    return visit.leave(person.page)


async def _info(visit: Visit) -> tuple[ConnectionInfo, PersonStatus]:
    """Of the person the path names. Raises NotFoundError."""
    login = visit.whose.login
    info = await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo)
    if info.person is None:
        raise NotFoundError(f"there is no person {login}")
    return info, info.person


async def _person(visit: Visit) -> Response:
    info, person = await _info(visit)
    asked, problems = visit.whose.asked, list[str]()
    keys = await attempt(visit, ListKeys(asked), Keys, problems)
    sessions = await attempt(visit, ListSessions(instance=asked), Sessions, problems)
    record = await attempt(visit, ReadLog(limit=LATEST, instance=asked), Log, problems)
    return visit.page(
        "person.html",
        whose=visit.whose,
        info=info,
        person=person,
        keys=keys,
        sessions=() if sessions is None else sessions.sessions,
        entries=() if record is None else tuple(reversed(record.entries)),
        problems=problems,
    )


async def _ask_remove(visit: Visit) -> Response:
    _, person = await _info(visit)
    return visit.page("remove-person.html", whose=visit.whose, person=person)


async def _remove(visit: Visit) -> Response:
    removed = await visit.ask(RemovePerson(visit.whose.login), PersonRemoved)
    visit.say(f"{removed.login} is removed: their access, keys and password are gone, and their sessions have ended.")
    return visit.go("/people")


# What is shared with them


async def _choose(visit: Visit) -> Response:
    _, person = await _info(visit)
    listing = await visit.ask(ListInstances(), Listing)
    typed = visit.asked("q")[: tree.SEARCH_MAX]
    found = [one for one in listing.instances if one.present and tree.has(one, typed.casefold().split())]
    return visit.page(
        "share-choose.html",
        whose=visit.whose,
        person=person,
        instances=[(one, _share_path(person.login, one.key)) for one in found[:FOUND_MAX]],
        found=len(found),
        words=typed,
    )


async def _choose_person(visit: Visit) -> Response:
    """With whom to share something of an instance."""
    instance = await find(visit)
    everybody = (await visit.ask(ListPeople(), People)).people
    typed = visit.asked("q")[: tree.SEARCH_MAX]
    found = [one for one in everybody if _has(one, typed.casefold().split())]
    return visit.page(
        "share-with.html",
        whose=visit.whose,
        instance=instance,
        people=[(one, _share_path(one.login, instance.key)) for one in found[:FOUND_MAX]],
        found=len(found),
        total=len(everybody),
        words=typed,
    )


def _share_path(login: str, key: InstanceKey) -> str:
    return paths.person(login, "share", paths.coded(key.environment), paths.coded(key.container), str(key.number))


def _to_share(visit: Visit) -> str:
    return _share_path(visit.whose.login, visit.instance)


async def _ask_share(visit: Visit) -> Response:
    return await _share_form(visit)


async def _share_again(visit: Visit, problem: str) -> Response:
    chosen = frozenset(visit.fields("volume"))
    return await _share_form(visit, 400, problem, _Choice(chosen, visit.typed("mode"), visit.typed("folder")))


class _Choice(msgspec.Struct, frozen=True):
    """What a form to share something has chosen: volumes as `paths.coded`, a mode or "", and a folder."""

    volumes: frozenset[str]
    mode: str
    folder: str = ""


async def _share_form(visit: Visit, status: int = 200, problem: str = "", typed: _Choice | None = None) -> Response:
    _, person = await _info(visit)
    instance = await find(visit)
    theirs = {volume.path: volume for volume in person.volumes if volume.key == instance.key}
    shareable = [one for one in instance.volumes if one.present and one.refusal is None]
    return visit.page(
        "share.html",
        status,
        whose=visit.whose,
        person=person,
        instance=instance,
        theirs=theirs,
        shareable=shareable,
        problem=problem,
        choice=typed or _first_choice(shareable, theirs),
    )


def _first_choice(shareable: Sequence[VolumeStatus], theirs: Mapping[str, PersonVolume]) -> _Choice:
    """What they have: whoever shares it again must not take writing away, or give all of it, by not looking."""
    if len(shareable) == 1:
        [one] = shareable
        has = theirs.get(one.path)
        volumes = frozenset({paths.coded(one.path)})
        return _Choice(volumes, Mode.READ_ONLY) if has is None else _Choice(volumes, has.mode, has.folder)
    writes = any(one.mode is Mode.READ_WRITE for one in theirs.values())
    # Of several volumes some with writing: which is meant cannot be guessed.
    return _Choice(frozenset(), "" if writes else Mode.READ_ONLY)


async def _share(visit: Visit) -> Response:
    key, login = visit.instance, visit.whose.login
    volumes = tuple(paths.decoded(part[: paths.CODED_MAX]) for part in visit.fields("volume"))
    if not volumes:
        raise UsageError("choose a volume; nothing was changed")
    mode, folder = visit.field("mode"), visit.field("folder", FOLDER_MAX).strip()
    if mode not in (Mode.READ_ONLY, Mode.READ_WRITE):
        raise UsageError("choose read-only, or read and write")
    _, person = await _info(visit)
    owned = {one.ownership for one in person.volumes if one.key == key and one.path in volumes}
    if len(owned) > 1:
        raise UsageError("whom new files belong to is not the same for these volumes: share them one at a time")
    request = GrantPerson(
        login=login,
        instance=str(key),
        volumes=volumes,
        read_only=mode == Mode.READ_ONLY,
        folder=folder,
        # What was said on the command line stays.
        ownership=owned.pop() if owned else UNSAID,
    )
    changed = await visit.ask(request, PersonChanged)
    what = ", ".join(changed.changed) + (f", only {folder}," if folder else "")
    visit.say(f"{what} of {key} {'is' if len(changed.changed) == 1 else 'are'} shared with {login}, {_how(mode)}.")
    given = [one for one in changed.person.volumes if one.key == key and one.path in changed.changed]
    _say_refused(visit, given)
    less = [one for one in given if one.key_source]
    if less:
        visit.say(
            f"Read-only all the same, since keys may lie there: {', '.join(one.path for one in less)}.", good=False
        )
    return visit.go(paths.person(login))


def _how(mode: str) -> str:
    return "read-only" if mode == Mode.READ_ONLY else "to read and write"


def _say_refused(visit: Visit, volumes: Iterable[PersonVolume]) -> None:
    for one in volumes:
        if one.refused:
            visit.say(f"{one.path}: {one.refused}. They are refused there until that changes.", good=False)


async def _volume(visit: Visit) -> PersonVolume:
    """What of the person's the form is about. Raises NotFoundError."""
    key, path = _key(visit), paths.decoded(visit.field("volume", paths.CODED_MAX))
    _, person = await _info(visit)
    found = next((one for one in person.volumes if (one.key, one.path) == (key, path)), None)
    if found is None:
        raise NotFoundError(f"{escaped(path)} of {key} is not shared with {person.login} any more")
    return found


def _key(visit: Visit) -> InstanceKey:
    return parse_instance_key(paths.decoded(visit.field("instance", paths.CODED_MAX)))


async def _change(visit: Visit) -> Response:
    """Give the same again, for what stands there now, read-only or not."""
    volume, login, mode = await _volume(visit), visit.whose.login, visit.field("mode")
    if mode not in (Mode.READ_ONLY, Mode.READ_WRITE):
        raise UsageError("choose read-only, or read and write")
    request = GrantPerson(
        login=login,
        instance=str(volume.key),
        volumes=(volume.path,),
        read_only=mode == Mode.READ_ONLY,
        folder=volume.folder,
        ownership=volume.ownership,
    )
    changed = await visit.ask(request, PersonChanged)
    visit.say(f"{volume.path} of {volume.key} is shared with {login}, {_how(mode)}.")
    _say_refused(visit, [one for one in changed.person.volumes if (one.key, one.path) == (volume.key, volume.path)])
    return visit.go(paths.person(login))


async def _revoke(visit: Visit) -> Response:
    volume, login = await _volume(visit), visit.whose.login
    await visit.ask(RevokePerson(login=login, instance=str(volume.key), volumes=(volume.path,)), PersonChanged)
    visit.say(f"{volume.path} of {volume.key} is no longer shared with {login}, in open sessions neither.")
    return visit.go(paths.person(login))


async def _ask_revoke_all(visit: Visit) -> Response:
    _, person = await _info(visit)
    return visit.page("revoke-all.html", whose=visit.whose, person=person)


async def _revoke_all(visit: Visit) -> Response:
    _, person = await _info(visit)
    done = True
    for key in sorted({volume.key for volume in person.volumes}):
        try:
            await visit.ask(RevokePerson(login=person.login, instance=str(key), every=True), PersonChanged)
        except (ConflictError, NotFoundError, UnfinishedError) as exc:
            # The others are taken away none the less.
            done = False
            visit.say(f"{key}: {sentence(str(exc))}", good=False)
    if done:
        visit.say(f"Nothing is shared with {person.login} any more. Their login, keys and password stay.")
    return visit.go(paths.person(person.login))
