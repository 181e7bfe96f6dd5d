"""What the tests of `hatchway doctor` share: a configuration of their own, stand-ins, and what a finding must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway.cli.doctor.command_line import Ran
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.config import Config, Engine, Host, Paths, Sshd

OK, WARNING, FAILED = Level.OK, Level.WARNING, Level.FAILED


def configuration(directory: Path) -> Config:
    """One all of whose paths lie in `directory`, which is the test's own."""
    for name in ("run", "state", "pam.d", "userdb"):
        (directory / name).mkdir()
    return Config(
        paths=Paths(
            run_dir=f"{directory}/run",
            state_dir=f"{directory}/state",
            libexec_dir=f"{directory}/libexec",
            userdb_dir=f"{directory}/userdb",
            pam_dir=f"{directory}/pam.d",
        ),
        sshd=Sshd(host_key_dir=f"{directory}/keys"),
        host=Host(volume_roots=("/var/lib/docker/volumes",)),
        engine=Engine(url=f"unix://{directory}/engine.sock"),
    )


def says(status: int | None, output: str = "") -> Callable[[Sequence[str]], Ran]:
    """A program that always ends like this."""
    return lambda _argv: Ran(status, output)


def only(findings: list[Finding]) -> Finding:
    """The one finding there is."""
    assert len(findings) == 1
    return findings[0]


def expect(finding: Finding, level: Level, *words: str) -> None:
    """It is of this level and says these words, and what to do unless all is well."""
    assert finding.level is level, finding
    assert all(word in finding.text for word in words), finding
    assert (finding.fix is None) == (level is OK)
