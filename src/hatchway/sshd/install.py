"""Puts the dedicated sshd's files in place and has sshd check them. Starts nothing; needs root.

What is written: the rendered configuration and policy and the link by which sshd is started, all below
`<run_dir>/sshd`, the PAM service file, and host keys where there are none.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hatchway import log, trust
from hatchway.config import Config
from hatchway.errors import ConfigError, HostError
from hatchway.sshd import hostkeys, render, version
from hatchway.sshd.files import replace, replace_link
from hatchway.wire.admin import HostKey

PRIVSEP_DIR = "/run/sshd"
"""Where Debian's sshd confines its unprivileged half; the host's own ssh.service makes and removes it."""

HELPERS = ("authorized-keys", "pam")
"""The programs in `paths.libexec_dir` that sshd and PAM run."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` left behind. `pam_created`: the PAM file was not there before, so `withdraw` may remove it."""

    argv: tuple[str, ...]
    version: version.Version
    host_keys: tuple[HostKey, ...]
    pam_path: str
    pam_created: bool


def config_path(config: Config) -> str:
    """Where the dedicated sshd's configuration is written."""
    return f"{config.paths.run_dir}/sshd/sshd_config"


def policy_path(config: Config) -> str:
    """Where the policy it includes is written."""
    return f"{config.paths.run_dir}/sshd/hatchway.conf"


def link_path(config: Config) -> str:
    """The link to sshd whose name is the PAM service: below 9.8 sshd asks PAM by the name it was started by."""
    return f"{config.paths.run_dir}/sshd/{config.sshd.pam_service}"


def pam_path(config: Config) -> str:
    """The PAM service file."""
    return f"{config.paths.pam_dir}/{config.sshd.pam_service}"


def argv(config: Config) -> tuple[str, ...]:
    """The command that runs the dedicated sshd in the foreground, logging to standard error.

    By absolute path, since sshd starts itself again for each connection (sshd(8)), and through the link.
    """
    return (link_path(config), "-D", "-e", "-f", config_path(config))


def prepare(
    config: Config,
    *,
    pid_file: str | None = None,
    privsep_dir: str = PRIVSEP_DIR,
    require: Callable[[str, bool], None] = lambda path, executable: trust.require(path, executable=executable),
    write_pam: bool = True,
) -> Prepared:
    """Write everything the dedicated sshd needs and have it checked by `sshd -t`.

    `require(path, executable)` raises when somebody but root can change `path`. With `write_pam` False the PAM service
    file is somebody else's to write, and must be there.
    Raises ConfigError when the PAM service file is there and not ours, HostError when a path cannot be trusted, a
    file cannot be written, or sshd refuses the result (with sshd's own words).
    """
    for name in HELPERS:
        require(f"{config.paths.libexec_dir}/{name}", True)
    require(config.sshd.binary, True)
    known = version.of(config.sshd.binary)
    directory = os.path.dirname(config_path(config))
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        os.chmod(directory, 0o755)
        require(directory, False)
        os.makedirs(privsep_dir, mode=0o755, exist_ok=True)
        replace(policy_path(config), render.policy(config, known), 0o644)
        replace(config_path(config), render.dedicated(config, known, policy_path(config), pid_file), 0o644)
        replace_link(link_path(config), config.sshd.binary)
    except OSError as exc:
        raise HostError(f"cannot write the files of sshd: {exc}") from exc
    keys = hostkeys.ensure(config.sshd.host_key_dir)
    check(config)
    created = _put_pam_service(config) if write_pam else _look_at_pam_service(config, require)
    return Prepared(argv(config), known, keys, pam_path(config), created)


def check(config: Config, timeout_s: float = 20.0) -> None:
    """Run `sshd -t` on the written files. Raises HostError with sshd's own words."""
    command = [link_path(config), "-t", "-f", config_path(config)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise HostError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode != 0:
        raise HostError(f"sshd refuses {config_path(config)}: {(done.stderr + done.stdout).strip()}")


def is_ours(path: str) -> bool:
    """Whether the file at `path` carries our marker line. Raises OSError."""
    return render.MARKER in Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def rules(text: str) -> list[list[str]]:
    """What PAM reads in a service file: its lines without comments (pam.conf(5)), in words."""
    return [words for line in text.splitlines() if (words := line.partition("#")[0].split())]


def put_signin_service(config: Config) -> bool:
    """Write the PAM file by which operators sign in; whether it was not there before. Raises ConfigError, HostError.

    That of the package stays as it is: it may have been made stricter.
    """
    with contextlib.suppress(OSError):
        text = Path(config.signin_pam_path).read_text(encoding="utf-8", errors="replace")
        if render.PACKAGED_PAM in text.splitlines():
            return False
    return _put(config.signin_pam_path, render.signin_service(), "remove it")


def withdraw_signin_service(config: Config) -> None:
    """Remove that file if it is ours. Never raises: this runs while stopping."""
    _take_away(config.signin_pam_path)


def _put_pam_service(config: Config) -> bool:
    """Write the PAM file; whether it was not there before."""
    return _put(pam_path(config), render.pam_service(config), "remove it, or set sshd.pam_service to another name")


def _put(path: str, text: str, mend: str) -> bool:
    """Write a PAM file with `text`; whether it was not there before. `mend`: what to do where another one is."""
    try:
        try:
            found = is_ours(path)
            # A package's, for example: it does what ours would.
            if not found and rules(Path(path).read_text(encoding="utf-8", errors="replace")) == rules(text):
                return False
        except FileNotFoundError:
            replace(path, text, 0o644)
            return True
        if not found:
            raise ConfigError(f"{path} is there and was not written by Hatchway: {mend}")
        if Path(path).read_text(encoding="utf-8") != text:
            replace(path, text, 0o644)
        return False
    except OSError as exc:
        raise HostError(f"cannot write the PAM service: {exc}") from exc


def _look_at_pam_service(config: Config, require: Callable[[str, bool], None]) -> bool:
    """Make sure that the PAM file is there and root's: without it PAM asks /etc/pam.d/other. False: it was there."""
    path = pam_path(config)
    require(path, False)
    try:
        if rules(Path(path).read_text(encoding="utf-8", errors="replace")) != rules(render.pam_service(config)):
            log.get().warning("the PAM service is not as Hatchway would have it", file=path)
    except OSError as exc:
        raise HostError(f"cannot read the PAM service: {exc}") from exc
    return False


def withdraw(prepared: Prepared) -> None:
    """Remove the PAM file if `prepare` made it and it is still ours. Never raises: this runs while stopping."""
    if prepared.pam_created:
        _take_away(prepared.pam_path)


def _take_away(path: str) -> None:
    with contextlib.suppress(OSError):
        if is_ours(path):
            os.unlink(path)
