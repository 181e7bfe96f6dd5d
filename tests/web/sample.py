"""Instances, keys, sessions and events for the pages' tests.

Some are plain, some have hostile names, and there are as many as wanted.
"""

from __future__ import annotations

from hatchway.model import EventKind, InstanceKey, InstanceState, Limits, Mode, Origin, VolumeKind
from hatchway.wire.admin import (
    Access,
    GrantStatus,
    HostKey,
    InstanceStatus,
    LogEntry,
    PersonStatus,
    PersonVolume,
    VolumeStatus,
)
from hatchway.wire.entry import KeyOrigin, KeyStatus, OpenPath, SessionStatus
from hatchway.wire.host import Usage, VolumeSize

GIB = 1 << 30
NOW = 1_795_780_000.0

HOST_KEYS = (
    HostKey(
        "ssh-ed25519",
        "SHA256:WPlpyyaWbmCQzEvIDWdrPb1UkQzqaXW5l6Qmi/CGdXU",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKnn2cMh0mM9QmzUqPYSt7fEa1kZ0B4gGv1r6D2hrqkn",
    ),
    HostKey(
        "ssh-rsa",
        "SHA256:5gqkQ2o7pIbk5cRZJp8cGT2XULcDfxIW9QF2e+o9lzE",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7",
    ),
)

SCRIPT = '<script>alert("x")</script>'
HOSTILE = (
    SCRIPT,
    '" onmouseover="alert(1)',
    "{{ 7*7 }}{% raw %}",
    "..",
    ".",
    "%2e%2e%2fetc",
    "a/../b",
    "\u202egnp.exe",
    "line\r\nSet-Cookie: a=b",
    "~41",
    "name with blanks?and#marks&more",
    "ünïcödé-名前-🗄",
    "</title><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "x" * 300,
)
"""Names of containers. None may do anything to a page, and all must get through a URL and back."""


def _grant(mode: Mode, origin: Origin = Origin.COMMAND, by: str = "uid 0") -> GrantStatus:
    return GrantStatus(origin=origin, mode=mode, in_force=True, follows=False, granted_by=by, granted_at=NOW - 864000)


def volume(
    path: str,
    name: str,
    access: Access = Access.OFF,
    size: VolumeSize | None = None,
    **more: object,
) -> VolumeStatus:
    """A volume, with the grant its access comes from."""
    mode = Mode.READ_ONLY if access is Access.READ_ONLY else Mode.READ_WRITE
    fields = {
        "kind": VolumeKind.VOLUME,
        "driver": "local",
        "read_only": False,
        "session_path": path if access.is_on else None,
        "grants": () if access is Access.OFF else (_grant(mode),),
        "size": size,
    } | more
    return VolumeStatus(path=path, name=name, access=access, **fields)  # type: ignore[arg-type]


def _sized(used: float, usable: float, nominal: float | None = None) -> VolumeSize:
    return VolumeSize(
        used=int(used * GIB),
        usable=int(usable * GIB),
        nominal=int((nominal or usable) * GIB),
        available=max(0, int((usable - used) * GIB)),
        limits=Limits(size=int((nominal or usable) * GIB)),
        counted=Usage(int(used * GIB), 1200, NOW - 20),
    )


def instance(key: InstanceKey, login: str | None, volumes: tuple[VolumeStatus, ...], **more: object) -> InstanceStatus:
    """An instance that runs."""
    fields = {
        "state": InstanceState.RUNNING,
        "runtime_name": f"{key.environment}-{key.container}-{key.number}",
        "image": "registry.example.com/shop/web:4.2.1",
        "user": "1000:1000",
        "present": True,
    } | more
    return InstanceStatus(key=key, login=login, volumes=volumes, **fields)  # type: ignore[arg-type]


WEB = InstanceKey("shop", "web", 1)
DB = InstanceKey("shop", "db", 1)
HASHED = InstanceKey("shop", "web", 2)
FRESH = InstanceKey("intranet", "wiki", 1)


def plain() -> list[InstanceStatus]:
    """Some of every kind."""
    return [
        instance(
            WEB,
            "shop-web-1",
            (
                volume(
                    "/srv/uploads",
                    "shop_uploads",
                    Access.READ_WRITE,
                    _sized(0.332, 0.903, 1),
                    people=("anna", "clara"),
                ),
                volume("/srv/themes", "shop_themes", Access.READ_ONLY, _sized(4.3, 4.63, 5)),
                volume("/var/cache/shop", "shop_cache"),
                volume(
                    "/etc/shop",
                    "",
                    kind=VolumeKind.BIND,
                    driver="",
                    refusal="/srv/shop/etc is in none of the directories of host.bind_prefixes",
                ),
            ),
            sessions=2,
        ),
        instance(
            HASHED,
            "shop-web-2",
            (volume("/srv/uploads", "shop_uploads", Access.READ_WRITE, _sized(0.9, 0.9, 1)),),
            state=InstanceState.EXITED,
        ),
        instance(
            DB,
            "shop-db-1",
            (
                volume("/var/lib/postgresql/data", "shop_db", Access.SUSPENDED),
                volume(
                    "/backup",
                    "shop_backup",
                    Access.READ_ONLY,
                    _sized(11.2, 37, 40),
                    grants=(_grant(Mode.READ_ONLY, Origin.FILE, "shop.toml, rule 2"),),
                ),
            ),
            locked=True,
            image="postgres:17",
        ),
        instance(
            InstanceKey("shop", "worker", 1),
            "shop-worker-1",
            (volume("/data", "worker_data", Access.READ_WRITE),),
            state=InstanceState.PAUSED,
        ),
        instance(
            FRESH, None, (volume("/var/lib/wiki", "wiki_data"), volume("/tmp/cache", "anonymous-8f3c", anonymous=True))
        ),
        instance(InstanceKey("intranet", "mail", 1), None, (), state=InstanceState.CREATED),
        instance(
            InstanceKey("archive", "old-site", 1),
            "archive-old-site-1",
            (volume("/srv/www", "old_www", Access.READ_ONLY, present=False),),
            present=False,
        ),
    ]


def hostile() -> list[InstanceStatus]:
    """With each of HOSTILE wherever a name can stand."""
    return [
        instance(
            InstanceKey(f"{name}".replace("/", "_"), name, number),
            f"hostile-{number}",
            (
                volume(f"/{name}", name, Access.READ_WRITE, driver=name),
                volume(f"/off/{name}", name),
                volume(f"/refused/{name}", name, refusal=f"because of {name}"),
                volume(f"/held/{name}", name, held_back=f"held by {name}"),
            ),
            runtime_name=name,
            image=name,
            user=name,
        )
        for number, name in enumerate(HOSTILE, 1)
    ]


def person_volume(
    key: InstanceKey, path: str, mode: Mode = Mode.READ_WRITE, size: VolumeSize | None = None, **more: object
) -> PersonVolume:
    """What of an instance is shared with a person."""
    folder = str(more.get("folder", ""))
    place = f"/{key.environment}-{key.container}-{key.number}{path}" + (f"/{folder}" if folder else "")
    fields = {
        "state": InstanceState.RUNNING,
        "present": True,
        "folder": folder,
        "name": path.strip("/").replace("/", "_"),
        "driver": "",
        "kind": VolumeKind.VOLUME,
        "access": Access.READ_ONLY if mode is Mode.READ_ONLY else Access.READ_WRITE,
        "session_path": place,
        "granted_at": NOW - 864000,
        "granted_by": "",
    } | more
    return PersonVolume(key=key, path=path, mode=mode, size=size, **fields)  # type: ignore[arg-type]


def people() -> list[PersonStatus]:
    """Somebody with all sorts of things, somebody with nothing, and somebody who is locked out."""
    blog = InstanceKey("blog", "web", 1)
    return [
        PersonStatus(
            login="anna",
            full_name="Anna Berg",
            created_at=NOW - 8640000,
            volumes=(
                person_volume(blog, "/uploads", folder="photos/2026", size=_sized(3.1, 9.2, 10)),
                person_volume(
                    DB,
                    "/backup",
                    Mode.READ_ONLY,
                    access=Access.SUSPENDED,
                    session_path=None,
                    problem="another volume stands there than the one that was shared with you",
                ),
                person_volume(WEB, "/srv/themes", Mode.READ_ONLY, size=_sized(4.3, 4.63, 5)),
                person_volume(WEB, "/srv/uploads", size=_sized(0.332, 0.903, 1)),
            ),
            sessions=1,
        ),
        PersonStatus(login="bert", full_name="", created_at=NOW - 86400, volumes=()),
        PersonStatus(
            login="clara",
            full_name="Clara Özdemir-Freifrau von und zu Langenhausen",
            created_at=NOW - 86400,
            volumes=(person_volume(WEB, "/srv/uploads", size=_sized(0.332, 0.903, 1)),),
            locked=True,
        ),
    ]


def many_people(count: int) -> list[PersonStatus]:
    """So many, with three volumes each."""
    return [
        PersonStatus(
            login=f"person-{number:04}",
            full_name=f"Person Number {number}",
            created_at=NOW,
            volumes=tuple(
                person_volume(InstanceKey(f"team-{number // 20:03}", "web", each), "/data", size=_sized(0.2, 0.9, 1))
                for each in range(1, 4)
            ),
        )
        for number in range(count)
    ]


def many(count: int) -> list[InstanceStatus]:
    """So many in environments of twenty, with three volumes each."""
    return [
        instance(
            InstanceKey(f"team-{number // 20:03}", f"service-{number % 20 // 4}", number % 4 + 1),
            f"team-{number // 20:03}-s{number % 20}",
            (
                volume("/data", f"data_{number}", Access.READ_WRITE, _sized(0.2, 0.9, 1)),
                volume("/logs", f"logs_{number}", Access.READ_ONLY, _sized(0.1, 0.9, 1)),
                volume("/cache", f"cache_{number}"),
            ),
        )
        for number in range(count)
    ]


def keys() -> list[KeyStatus]:
    """One of each origin."""
    return [
        KeyStatus(
            origin=KeyOrigin.GENERATED,
            algorithm="ssh-ed25519",
            fingerprint="SHA256:pKq7mNnEw0nEZrVYFz2gq9Z3rSEXkM1hWq7dkQTaF0s",
            comment="id_container",
            created_at=NOW - 864000,
        ),
        KeyStatus(
            origin=KeyOrigin.ADDED,
            algorithm="ssh-rsa",
            bits=4096,
            fingerprint="SHA256:Zk3w1aQ9bV8mJrWcV6xYH2mV8sB0L3pTnG5uE7dC1iA",
            comment="ada@laptop",
            created_at=NOW - 4000,
            sources="192.0.2.0/24",
            expires_at=NOW + 864000,
        ),
        KeyStatus(
            origin=KeyOrigin.VOLUME,
            algorithm="ssh-ed25519",
            fingerprint="SHA256:q1w2e3r4t5z6u7i8o9p0a1s2d3f4g5h6j7k8l9y0x1c",
            comment="deploy",
            place="/home/app/.ssh/authorized_keys, line 1",
        ),
    ]


def sessions() -> list[SessionStatus]:
    """Two of WEB."""
    return [
        SessionStatus(
            id="a1b2c3",
            key=WEB,
            login="shop-web-1",
            address="192.0.2.17",
            method="publickey",
            opened_at=NOW - 3700,
            comment="ada@laptop",
            read=48_000_000,
            written=1_200_000,
            idle_s=4,
            files=(OpenPath("/srv/uploads/2026/catalogue.pdf", True),),
        ),
        SessionStatus(
            id="d4e5f6",
            key=WEB,
            login="shop-web-1",
            address="2001:db8::51",
            method="password",
            opened_at=NOW - 900,
            read=0,
            written=920_000_000,
            idle_s=130,
        ),
    ]


def session_of_anna() -> SessionStatus:
    """A person's."""
    return SessionStatus(
        id="f7a8b9",
        key=None,
        login="anna",
        address="198.51.100.4",
        method="password",
        opened_at=NOW - 600,
        read=1_200_000,
        written=0,
        files=(OpenPath("/shop-web-1/srv/themes/main.css", False),),
    )


def events() -> list[LogEntry]:
    """In the order of their time, a hostile one among them."""
    told = [
        (
            EventKind.CHANGE,
            "access to /srv/uploads enabled, read and write",
            "",
            "uid 0, logged in as uid 1000",
            True,
            1,
        ),
        (EventKind.LOGIN, "logged in by public key", "192.0.2.17", "SHA256:Zk3w1aQ9bV8m ada@laptop", True, 1),
        (EventKind.REFUSED, "wrong password", "203.0.113.80", "", False, 214),
        (EventKind.REFUSED, f"unknown name {SCRIPT}\n\u202eevil", "203.0.113.80", "", False, 1),
        (EventKind.END, "session ended by the client", "192.0.2.17", "", True, 1),
        (EventKind.AUTO, "rule 2 of shop.toml shares /backup", "", "", True, 1),
        (EventKind.LOCKED, "locked: 50 wrong passwords within an hour", "", "", True, 1),
    ]
    return [
        LogEntry(
            id=number + 1,
            at=NOW - 9000 + 60 * number,
            kind=kind,
            instance=str(WEB),
            login="shop-web-1",
            address=address,
            who=who,
            what=what,
            done=done,
            times=times,
            read=48_000_000 if kind is EventKind.END else None,
            written=1_200 if kind is EventKind.END else None,
        )
        for number, (kind, what, address, who, done, times) in enumerate(told)
    ]


def events_of_anna() -> list[LogEntry]:
    """As she is told them."""
    told = [
        (EventKind.CHANGE, "person added", "", "the operator", True),
        (EventKind.LOGIN, "logged in", "198.51.100.4", "password", True),
        (EventKind.REFUSED, "wrong password", "203.0.113.80", "", False),
        (EventKind.CHANGE, "key added", "", "person anna (web) from 198.51.100.4", True),
    ]
    return [
        LogEntry(
            id=100 + number,
            at=NOW - 900 + 60 * number,
            kind=kind,
            instance="anna",
            login="anna",
            address=address,
            who=who,
            what=what,
            done=done,
            times=1,
        )
        for number, (kind, what, address, who, done) in enumerate(told)
    ]
