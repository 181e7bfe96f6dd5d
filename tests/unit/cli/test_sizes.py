"""Sizes and limits in words: what `ls` and `show` say of each kind of volume."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from hatchway import trust
from hatchway.cli.sizes import amount, in_decimal, limits_text, size_remarks, whole
from hatchway.fullness import BLOCK, Full, fullness
from hatchway.model import NO_LIMITS, SIZE_MAX, SIZE_MIN, InstanceKey, Limits, Mode, NewLimits, Origin, parse_size
from hatchway.wire.admin import (
    Access,
    AccessChange,
    Applied,
    Apply,
    Changed,
    ChangeKind,
    DaemonStatus,
    Enable,
    GrantStatus,
    Listing,
    ListInstances,
    Show,
    Status,
)
from hatchway.wire.host import Usage, VolumeSize

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

MB, MIB, GIB = 10**6, 1 << 20, 1 << 30
LIMIT = Limits(1000 * MB)
LIMITED = VolumeSize(usable=925 * MB, nominal=1000 * MB, files_usable=61_035, limits=LIMIT)
OWN = VolumeSize(usable=973 * MIB, nominal=GIB, files_used=12, files_usable=65_536, own=True)
BY_COMMAND = GrantStatus(
    origin=Origin.COMMAND, mode=Mode.READ_WRITE, in_force=True, follows=False, granted_by="uid 0", granted_at=0.0
)


@pytest.mark.parametrize(
    ("size", "binary", "decimal"),
    [
        (0, "0 B", "0 B"),
        (999, "999 B", "999 B"),
        (1023, "1023 B", "1 kB"),
        (1024, "1 KiB", "1 kB"),
        (1_048_000, "1023.4 KiB", "1 MB"),
        (1_048_575, "1 MiB", "1 MB"),
        (13_002_342, "12.4 MiB", "13 MB"),
        (925 * MB, "882.1 MiB", "925 MB"),
        (800 * GIB, "800 GiB", "859 GB"),
        (1 << 60, "1048576 TiB", "1152921.5 TB"),
    ],
)
def test_amounts(size: int, binary: str, decimal: str) -> None:
    assert (amount(size), amount(size, decimal=True)) == (binary, decimal)


@settings(database=None)
@given(st.integers(0, 1 << 49), st.booleans())
def test_an_amount_is_right_to_its_decimal(size: int, decimal: bool) -> None:
    number, unit = amount(size, decimal=decimal).split()
    scale = {"B": 1, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}[unit[0]] if unit != "B" else 0
    one = (1000 if decimal else 1024) ** scale
    assert abs(float(number) * one - size) <= one * 0.0501
    assert float(number) < (1000 if decimal else 1024)


@pytest.mark.parametrize("text", ["1M", "512 MiB", "1GB", "20GB", "1.5G", "1.25 GB", "1234MB", "1000 MiB", "1024T"])
def test_a_limit_is_shown_as_it_was_given(text: str) -> None:
    size = parse_size(text)
    assert parse_size(whole(size, decimal=in_decimal(size)).replace(",", "")) == size


@settings(database=None)
@given(st.integers(2 * SIZE_MIN, SIZE_MAX // 2))
def test_a_limit_is_shown_nearly_as_it_is(size: int) -> None:
    for decimal in (True, False):
        shown = parse_size(whole(size, decimal=decimal).replace(",", ""))
        assert abs(shown - size) <= size / 15


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (NO_LIMITS, None),
        (Limits(20_000 * MB), "limit 20 GB"),
        (Limits(1500 * MIB, 100_000), "limit 1,500 MiB, 100,000 files"),
        (Limits(None, 1), "limit 1 file"),
        # A multiple of both is taken for the one that file systems are made of.
        (Limits(MB * MIB), "limit 1,000,000 MiB"),
    ],
)
def test_limits(limits: Limits, text: str | None) -> None:
    assert limits_text(limits) == text


def size(base: VolumeSize = LIMITED, **fields: Any) -> VolumeSize:
    return structs.replace(base, **fields)


CASES: list[tuple[VolumeSize, list[str]]] = [
    (
        size(used=13 * MB, available=912 * MB, files_used=412),
        ["13 MB of 925 MB used, 912 MB left; limit 1 GB with index"],
    ),
    (
        size(used=13 * MB, usable=1000 * MB, available=987 * MB),
        ["13 MB of 1 GB used, 987 MB left; limit 1 GB"],
    ),
    (
        VolumeSize(
            used=13 * MIB,
            usable=947 * MIB,
            nominal=GIB,
            available=934 * MIB,
            files_used=412,
            files_usable=65_536,
            limits=Limits(GIB, 65_536),
        ),
        ["13 MiB of 947 MiB used, 934 MiB left; limit 1 GiB with index", "412 of 65,536 files"],
    ),
    (
        size(used=13 * MB, available=100 * MB),
        ["13 MB of 925 MB used, 100 MB left on its disk; limit 1 GB with index"],
    ),
    (size(), ["being counted, 925 MB usable; limit 1 GB with index"]),
    # What the disk has says nothing of what the limit leaves.
    (size(available=800 * GIB), ["being counted, 925 MB usable; limit 1 GB with index"]),
    (
        size(used=13 * MB, available=100 * MB, own=True),
        ["13 MB of 925 MB used, 100 MB left on its disk; limit 1 GB with index"],
    ),
    (
        size(limits=Limits(1000 * MB, 500), files_usable=None),
        ["being counted, 925 MB usable; limit 1 GB with index", "at most 500 files"],
    ),
    (
        size(used=925 * MB - 1000, available=0),
        ["925 MB of 925 MB used, 0 B left; limit 1 GB with index", "! full: nothing can be uploaded"],
    ),
    (
        size(used=1200 * MB, available=0),
        [
            "1.2 GB of 925 MB used, 0 B left; limit 1 GB with index",
            "! 275 MB over its limit (the container is not held to it): remove that much to upload again",
        ],
    ),
    (
        size(used=120 * MB, available=805 * MB, files_used=60_000),
        ["120 MB of 925 MB used, 805 MB left; limit 1 GB with index", "60,000 of 61,035 files"],
    ),
    (
        size(used=120 * MB, available=805 * MB, files_used=61_036),
        [
            "120 MB of 925 MB used, 805 MB left; limit 1 GB with index",
            "61,036 of 61,035 files",
            "! 1 file over its limit (the container is not held to it): remove as many to make others",
        ],
    ),
    (
        VolumeSize(used=7 * MIB, available=800 * GIB, files_used=100, files_usable=100, limits=Limits(None, 100)),
        [
            "7 MiB used, no limit of size; 800 GiB left on its disk",
            "100 of 100 files",
            "! as many files as there may be: no more can be made",
        ],
    ),
    (
        size(OWN, used=13_002_342, available=906 * MIB),
        ["12.4 MiB of 973 MiB used, 906 MiB left; device 1 GiB with index"],
    ),
    (
        # Root's reserve is nobody's over SFTP.
        size(OWN, used=906 * MIB, available=0),
        ["906 MiB of 973 MiB used, 0 B left; device 1 GiB with index", "! full: nothing can be uploaded"],
    ),
    (
        size(OWN, used=980 * MIB, available=0),
        ["980 MiB of 973 MiB used, 0 B left; device 1 GiB with index", "! full: nothing can be uploaded"],
    ),
    (VolumeSize(used=13_002_342, available=800 * GIB), ["12.4 MiB used, no limit; 800 GiB left on its disk"]),
    (VolumeSize(available=800 * GIB), ["being counted, no limit; 800 GiB left on its disk"]),
    (VolumeSize(), ["being counted, no limit"]),
    (
        VolumeSize(used=8 * GIB, available=4095),
        ["8 GiB used, no limit; 4 KiB left on its disk", "! its disk is full: nothing can be uploaded"],
    ),
    (
        size(problem="/v does not\x1b answer"),
        ["925 MB usable; limit 1 GB with index", "! size not known: /v does not\\x1b answer"],
    ),
    (
        VolumeSize(used=MIB, problem="/v does not answer"),
        ["1 MiB used, no limit", "! size not certain: /v does not answer"],
    ),
]


@pytest.mark.parametrize(("known", "lines"), CASES)
def test_what_is_said_of_a_volume(make: Any, known: VolumeSize, lines: list[str]) -> None:
    def said(access: Access) -> list[str]:
        volume = make.volume(access=access, size=known, limits=known.limits)
        volume = structs.replace(volume, grants=(structs.replace(BY_COMMAND, limits=known.limits),))
        return [("! " if line.style == "yellow" else "") + line.plain for line in size_remarks(volume)]

    shown = [line.replace("! size not", "size not") for line in lines]
    assert [line.replace("! size not", "size not") for line in said(Access.READ_WRITE)] == shown
    # To what is read-only nothing can be added anyway.
    assert [line.replace("! size not", "size not") for line in said(Access.READ_ONLY)] == [
        line for line in shown if not line.startswith("!")
    ]
    for nobodys in (Access.OFF, Access.SUSPENDED):
        assert said(nobodys) == []


def test_problems_are_yellow(make: Any) -> None:
    lines = size_remarks(make.volume(access=Access.READ_ONLY, size=VolumeSize(problem="x")))
    assert [[str(span.style) for span in line.spans] for line in lines] == [[], ["yellow", "yellow"]]


def test_a_limit_is_said_also_while_no_size_is_known(make: Any) -> None:
    (line,) = size_remarks(make.volume(access=Access.READ_WRITE, limits=LIMIT, grants=(_with(LIMIT),)))
    assert line.plain == "limit 1 GB"
    assert size_remarks(make.volume(access=Access.READ_WRITE)) == []


def _with(limits: Limits, **more: Any) -> GrantStatus:
    return structs.replace(BY_COMMAND, limits=limits, **more)


@pytest.mark.parametrize(
    ("own", "elsewhere"),
    [
        ((LIMIT,), False),
        ((NO_LIMITS,), True),
        ((NO_LIMITS, LIMIT), False),
        ((Limits(2000 * MB),), True),
        ((Limits(1000 * MB, 7),), False),
    ],
)
def test_a_limit_that_comes_from_elsewhere_is_said_to(make: Any, own: tuple[Limits, ...], elsewhere: bool) -> None:
    volume = make.volume(access=Access.READ_WRITE, limits=LIMIT, grants=tuple(_with(one) for one in own))
    texts = [line.plain for line in size_remarks(volume)]
    assert ("limited by what gives another instance access to this volume" in texts) is elsewhere
    suspended = structs.replace(volume, grants=(_with(LIMIT, in_force=False),))
    assert "limited by what gives another instance access to this volume" in [
        line.plain for line in size_remarks(suspended)
    ]


@settings(database=None)
@given(st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK), st.integers(0, 9), st.integers(0, 9))
def test_a_volume_is_full_when_not_a_block_or_file_more_fits(used: int, usable: int, files: int, most: int) -> None:
    known = VolumeSize(
        used=used, usable=usable, files_used=files, files_usable=most, limits=Limits(usable + 1, most), nominal=usable
    )
    found = fullness(known)
    assert (Full.FULL in found) == (0 <= usable - used < BLOCK)
    assert (Full.OVER in found) == (used > usable)
    assert (Full.FILES in found) == (files == most)
    assert (Full.FILES_OVER in found) == (files > most)
    assert fullness(VolumeSize()) == ()


def test_ls_and_show(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    known = size(used=13 * MB, available=912 * MB, files_used=412)
    volume = make.volume(
        access=Access.READ_WRITE, session_path="/home/work", size=known, limits=LIMIT, grants=(_with(LIMIT),)
    )
    daemon.answers[ListInstances] = Listing(instances=(make.instance(volume),), sources=())
    line = "13 MB of 925 MB used, 912 MB left; limit 1 GB with index"
    out = run("ls").stdout.splitlines()
    assert out[3:5] == ["        └── rw  /home/work  work", f"            └── {line}"]
    assert max(len(one) for one in out) < 80
    daemon.answers[Show] = make.connection(instance=make.instance(volume))
    assert (
        f"Volumes\n  rw  /home/work  work\n      {line}\n      given by command, uid 0: rw, limit 1 GB\n"
        in run("show", "x").stdout
    )
    shown = run.json("show", "x")["instance"]["volumes"][0]
    assert (shown["size"]["used"], shown["size"]["usable"], shown["limits"]) == (
        13 * MB,
        925 * MB,
        {"size": 1000 * MB, "files": None},
    )


def test_status_counts_what_is_full(run: Cli, daemon: FakeDaemon) -> None:
    status = Status(version="1", sources=(), logins=1, sessions=0, mounts=0, host_problem=None)
    daemon.answers[DaemonStatus] = status
    assert "Full" not in run("status").stdout
    daemon.answers[DaemonStatus] = structs.replace(status, full=("shop/web/1 /data", "shop/web/1 /logs"))
    assert "  Full          2 volumes: see 'hatchway ls'\n" in run("status").stdout


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ([], NewLimits()),
        (["--size", "20GB"], NewLimits(size=20_000 * MB)),
        (["--size", "1.5G", "--files=100000"], NewLimits(1536 * MIB, 100_000)),
        (["--size=none"], NewLimits(size=None)),
        (["--files", "none"], NewLimits(files=None)),
    ],
)
def test_enable_with_limits(run: Cli, daemon: FakeDaemon, make: Any, options: list[str], limits: NewLimits) -> None:
    shared = make.volume(access=Access.READ_WRITE, limits=LIMIT, grants=(_with(LIMIT),))
    daemon.answers[Enable] = Changed(instance=make.instance(shared), changed=("/home/work",))
    daemon.answers[Show] = make.connection()
    out = run("enable", "shop/web/1", "work", *options).stdout
    # What is not said must arrive as not said, and not as none.
    assert daemon.requests[0] == Enable(instance="shop/web/1", volumes=("work",), limits=limits)
    assert "  rw  /home/work  work\n      limit 1 GB\n" in out


@pytest.mark.parametrize(
    "option",
    ["--size=20", "--size=", "--size=20XB", "--size=2000T", "--files=0", "--files=x", "--files=1.5", "--files="],
)
def test_what_is_no_limit(run: Cli, daemon: FakeDaemon, option: str) -> None:
    done = run("enable", "shop/web/1", "work", option)
    assert (done.exit_code, daemon.requests) == (2, [])
    assert "is not allowed: expected" in done.stderr


def test_apply_says_which_limits_change(
    run: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(kind: ChangeKind, path: str, before: Limits, after: Limits) -> AccessChange:
        return AccessChange(
            kind=kind,
            key=InstanceKey("shop", "web", 1),
            path=path,
            origin=Origin.FILE,
            mode=Mode.READ_WRITE,
            before=None if kind is ChangeKind.GRANT else Mode.READ_WRITE,
            by="r",
            limits=after,
            limits_before=before,
        )

    directory = tmp_path / "access.d"
    directory.mkdir()
    run.config.write_text(f'{run.config.read_text()}[access]\ndir = "{directory}"\n')
    daemon.answers[Apply] = Applied(
        changes=(
            change(ChangeKind.GRANT, "/new", NO_LIMITS, LIMIT),
            change(ChangeKind.ALTER, "/a", NO_LIMITS, Limits(2000 * MB, 7)),
            change(ChangeKind.ALTER, "/b", LIMIT, NO_LIMITS),
            change(ChangeKind.WITHDRAW, "/c", LIMIT, LIMIT),
        ),
        waiting=(),
        pending=0,
        problems=(),
        idle=(),
        sources=(),
        dry_run=True,
    )
    monkeypatch.setattr(trust, "flaw", lambda _path, **_: None)
    out = run("apply", "--dry-run").stdout.splitlines()
    assert out[2:6] == [
        "  give       rw  /new  r  limit 1 GB",
        "  change     rw  /a    r  no limit -> limit 2 GB, 7 files",
        "  change     rw  /b    r  limit 1 GB -> no limit",
        "  take away  rw  /c    r  limit 1 GB",
    ]


@pytest.mark.parametrize(
    ("age_s", "said"), [(5, ""), (89, ""), (420, "; counted 7 min ago"), (10_000, "; counted 2 h ago")]
)
def test_when_it_was_counted(make: Any, age_s: float, said: str) -> None:
    known = size(
        used=13 * MB, available=912 * MB, counted=Usage(size=13 * MB, files=1, measured_at=time.time() - age_s)
    )
    (line,) = size_remarks(make.volume(access=Access.READ_WRITE, limits=LIMIT, size=known, grants=(_with(LIMIT),)))
    assert line.plain == "13 MB of 925 MB used, 912 MB left; limit 1 GB with index" + said
