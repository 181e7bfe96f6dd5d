"""PAM: the service file, and whether a stranger is refused through it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway import trust
from hatchway.cli.doctor import stranger
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.sshd import install, render


def service_file(
    config: Config, running: bool, how: Advice = HERE, flaw: Callable[[str], str | None] = trust.flaw
) -> Finding:
    """Whether the PAM service file is there and as it should be. `running`: the daemon answers now.

    What counts is what PAM reads, not comments.
    """
    name, path = "PAM service", install.pam_path(config)
    write_again = how.again(why="it writes the file")
    # Of this name the package has one.
    packaged = how.packaged and config.sshd.pam_service == Config().sshd.pam_service
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if how.packaged:
            fix = how.missing_conffile() if packaged else _of_another_name(path)
            return failed(name, f"{path} is not there: PAM would use /etc/pam.d/other", fix)
        if not running:
            return ok(name, f"{path} is not there yet: it is made at the start")
        return failed(name, f"{path} is not there: PAM would use /etc/pam.d/other", write_again)
    except (OSError, UnicodeDecodeError) as exc:
        return failed(name, f"{path}: {exc}", "look at the file as root")
    if (found := flaw(path) if how.packaged else None) is not None:
        return failed(name, found, f"chown root:root and chmod go-w what is named, down to {path}")
    if install.rules(text) == install.rules(render.pam_service(config)):
        return ok(name, path)
    different = f"{path} has other rules than Hatchway's: it may let in who must not, or nobody"
    if how.packaged:
        return failed(name, different, how.changed_conffile(path) if packaged else _of_another_name(path))
    if render.MARKER not in text.splitlines():
        return failed(
            name,
            f"{path} was not written by Hatchway, and has other rules",
            "remove it, or set sshd.pam_service to another name",
        )
    return failed(name, f"{path} is not what this configuration asks for", write_again)


def _of_another_name(path: str) -> str:
    return f"take sshd.pam_service out of the configuration, or copy the package's /etc/pam.d/hatchway-sshd to {path}"


def refuses_strangers(
    config: Config,
    running: bool,
    execute: Callable[[Sequence[str], float], Ran] = run,
    timeout_s: float = 10.0,
    how: Advice = HERE,
) -> list[Finding]:
    """Whether python-pam, asked through our service, refuses a login nobody has.

    In a process of its own: a PAM module may hang, and would bring its libraries into this one.
    """
    # Without the daemon everybody is refused, which would prove nothing; without the file PAM asks another one.
    if not running or not Path(install.pam_path(config)).exists():
        return []
    return [_try_stranger(config, execute, timeout_s, how)]


def _try_stranger(
    config: Config, execute: Callable[[Sequence[str], float], Ran], timeout_s: float, how: Advice
) -> Finding:
    name = "PAM login"
    login = stranger.login()
    ran = execute(
        [sys.executable, "-I", "-m", "hatchway.cli.doctor.pam_probe", config.sshd.pam_service, login], timeout_s
    )
    if ran.status == 0:
        return failed(
            name,
            f"the unknown login {login} was let in with a random password",
            f"stop Hatchway now{' (systemctl stop hatchway)' * how.packaged} and look at the PAM service file: "
            "something else than Hatchway answered",
        )
    if ran.status != 1:
        again = how.reinstall("pip install python-pam")
        return warning(name, f"could not be tried: {ran.output or ran.status}", f"{again}; see above")
    return ok(name, "a stranger is refused")
