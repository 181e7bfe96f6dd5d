"""PAM: the service file, and whether a stranger is refused through it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.sshd import install, render

_RUN_AGAIN = "start 'hatchway run' again: it writes the file"


def service_file(config: Config, running: bool) -> Finding:
    """Whether the PAM service file is there, ours and as it should be. `running`: the daemon answers now."""
    path = install.pam_path(config)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if not running:
            return ok("PAM service", f"{path} is not there yet: 'hatchway run' makes it")
        return failed("PAM service", f"{path} is not there: PAM would use /etc/pam.d/other", _RUN_AGAIN)
    except (OSError, UnicodeDecodeError) as exc:
        return failed("PAM service", f"{path}: {exc}", "look at the file as root")
    if render.MARKER not in text.splitlines():
        return failed(
            "PAM service",
            f"{path} was not written by Hatchway",
            "remove it, or set sshd.pam_service to another name",
        )
    if text != render.pam_service(config):
        return failed("PAM service", f"{path} is not what this configuration asks for", _RUN_AGAIN)
    return ok("PAM service", path)


def refuses_strangers(
    config: Config, running: bool, execute: Callable[[Sequence[str], float], Ran] = run, timeout_s: float = 10.0
) -> list[Finding]:
    """Whether python-pam, asked through our service, refuses a login nobody has.

    In a process of its own: a PAM module may hang, and would bring its libraries into this one.
    """
    # Without the daemon everybody is refused, which would prove nothing; without the file PAM asks another one.
    if not running or not Path(install.pam_path(config)).exists():
        return []
    return [_try_stranger(config, execute, timeout_s)]


def _try_stranger(config: Config, execute: Callable[[Sequence[str], float], Ran], timeout_s: float) -> Finding:
    name = "PAM login"
    login = f"nobody-{secrets.token_hex(6)}"
    ran = execute(
        [sys.executable, "-I", "-m", "hatchway.cli.doctor.pam_probe", config.sshd.pam_service, login], timeout_s
    )
    if ran.status == 0:
        return failed(
            name,
            f"the unknown login {login} was let in with a random password",
            "stop Hatchway now and look at the PAM service file: something else than Hatchway answered",
        )
    if ran.status != 1:
        return warning(name, f"could not be tried: {ran.output or ran.status}", "pip install python-pam; see above")
    return ok(name, f"a stranger is refused ({ran.output})")
