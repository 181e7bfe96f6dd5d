"""The daemon itself, as it says it is."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.cli.text import ago, count
from hatchway.errors import HatchwayError, NotRunningError, RefusedError
from hatchway.wire.admin import HOST_STARTING, Status

STALE_S = 60.0
"""A source that said nothing for so long is not followed any more."""


def not_asked(unit: str) -> Finding:
    """What to say when the daemon would not answer since `unit`, its own or hostd's, does not stay up."""
    return warning("daemon", f"is not asked, since {unit} does not run", f"see the finding of {unit}")


def ask(
    status: Callable[[], Status], how: Advice = HERE, known: Container[str] = frozenset()
) -> tuple[list[Finding], bool]:
    """What the daemon says of itself, and whether it runs. `status` asks it.

    Of sources that are `known` to be away another finding speaks.
    """
    try:
        answer = status()
    except NotRunningError:
        return [warning("daemon", "does not run", how.start)], False
    except RefusedError as exc:
        return [warning("daemon", str(exc), "run 'hatchway doctor' as root")], True
    except HatchwayError as exc:
        return [failed("daemon", str(exc), how.log("hatchway-core"))], True
    findings = [
        ok(
            "daemon",
            f"version {answer.version}, {count(answer.logins, 'login')}, {count(answer.sessions, 'session')}, "
            f"{count(answer.mounts, 'mount')}",
        )
    ]
    if answer.host_problem is None:
        findings.append(ok("hostd", "answers"))
    elif answer.host_problem == HOST_STARTING:
        findings.append(warning("hostd", f"{HOST_STARTING}: the daemon was just started", "look again in a minute"))
    else:
        findings.append(failed("hostd", answer.host_problem, how.log("hatchway-hostd")))
    if answer.sealing_lost or answer.unopened:
        findings.append(_sealing_key(answer))
    if answer.unshareable:
        findings.append(
            warning(
                "access",
                f"suspended for {count(len(answer.unshareable), 'volume')} that cannot be shared any more: "
                f"{_some(answer.unshareable)}",
                "'hatchway ls' says why; allow the directory again (host.volume_roots, host.bind_prefixes), or take "
                "the access away: 'hatchway disable'",
            )
        )
    if answer.waiting:
        findings.append(
            warning(
                "access",
                f"suspended or held back for {count(len(answer.waiting), 'volume')}: {_some(answer.waiting)}",
                "'hatchway ls' says why; look whose they are, then 'hatchway confirm' or 'hatchway forget'",
            )
        )
    for source in answer.sources:
        name = f"source {source.source}"
        if source.problem is not None and source.source in known:
            continue
        if source.problem is not None:
            # Whether that is a failure, the findings about the engine and the file say: here it is a consequence.
            findings.append(
                warning(name, source.problem, f"see the engine's or the file's finding; {how.log('hatchway-catalog')}")
            )
        elif source.age_s is None or source.age_s > STALE_S:
            seen = "never seen" if source.age_s is None else f"last seen {ago(source.age_s)}"
            findings.append(warning(name, f"{seen}: what is shown may be old", how.log("hatchway-catalog")))
        else:
            findings.append(ok(name, f"{count(source.instances, 'instance')}, seen {ago(source.age_s)}"))
    return findings, True


def _sealing_key(answer: Status) -> Finding:
    """What to say of a sealing key that is not there, or with which not everything opens."""
    name, logins = "sealing key", count(len(answer.unopened), "login")
    if answer.sealing_lost:
        whose = f"secrets of {logins} cannot be shown: {_some(answer.unopened)}" if answer.unopened else "none are kept"
        return failed(
            name,
            f"is missing: {whose}; nor can new ones be made that can be shown",
            "put it back, from where the registry came from, and restart; or, if it is lost, see 'Without the sealing "
            "key' in docs/backup.md",
        )
    return failed(
        name,
        f"secrets of {logins} do not open with it: {_some(answer.unopened)}",
        "put back the sealing key that belongs to this registry, and restart; or, if it is lost, give them new ones: "
        "'hatchway key renew', 'hatchway password reset'",
    )


def _some(names: Sequence[str]) -> str:
    """The first five of `names`, and whether there are more."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
