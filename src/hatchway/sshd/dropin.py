"""The drop-in: the host's own sshd serves Hatchway's port, and there is no other. What that takes, as text.

It is in place when FILE is there and names our socket, and nothing else says so: the unit of the dedicated sshd does
not start then, the core takes the word of the host's PAM service for connections to Hatchway's port, and clients are
told of the host's keys.

Sources: sshd_config(5) of OpenSSH 8.7 to 10.0, servconf.c (Include keeps a Match block within its file; what a Match
block says wins over what stands outside of any, and the first of several blocks over the others), pam.conf(5), and
_pam_dispatch_aux in Linux-PAM's pam_dispatch.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hatchway.config import Config
from hatchway.errors import ConflictError
from hatchway.sshd import render
from hatchway.sshd.version import Version

DIRECTORY = "/etc/ssh/sshd_config.d"
"""What Debian's sshd_config includes, before anything else in it."""

FILE = f"{DIRECTORY}/00-hatchway.conf"
"""Its name comes before all others: of two Match blocks the first one counts."""

SOCKET_FILE = "/etc/systemd/system/ssh.socket.d/hatchway.conf"
"""Where systemd listens for the host's sshd: it does not listen by itself then."""

SERVICE = "sshd"
"""The PAM service of the host's sshd, in all versions."""

BEGIN, END = "# --- Hatchway: begin. What is between here and 'end' is replaced as a whole.", "# --- Hatchway: end."
"""Our lines in the host's PAM file stand between these."""

_HOST_KEY = "#HostKey "


def pam_path(config: Config) -> str:
    """The PAM file of the host's sshd."""
    return f"{config.paths.pam_dir}/{SERVICE}"


def in_place(config: Config) -> bool:
    """Whether the host's sshd is to serve the port of this Hatchway. False as well when that cannot be read."""
    try:
        return _is_of(config, Path(FILE).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def host_key_files(config: Config) -> tuple[str, ...] | None:
    """The private host keys of the host's sshd, as they were when FILE was written; None when it does not serve the
    port of this Hatchway. Raises OSError."""
    try:
        text = Path(FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if not _is_of(config, text):
        return None
    return tuple(line.removeprefix(_HOST_KEY).strip() for line in text.splitlines() if line.startswith(_HOST_KEY))


def _is_of(config: Config, text: str) -> bool:
    """Whether the policy in `text` asks this Hatchway, and not another one on the same host."""
    return f" {config.auth_socket} %u\n" in text


def sshd_text(config: Config, version: Version, listening: Iterable[str], host_keys: Iterable[str]) -> str:
    """FILE, for a host's sshd of `version`.

    `listening` are the lines by which it listens to our port besides its own, `host_keys` the files of its host keys.
    """
    lines = [
        render.MARKER,
        f"# The host's own sshd serves Hatchway's port, {config.sshd.port}. 'hatchway drop-in disable' ends that;",
        "# 'hatchway drop-in enable' writes this file again, after a change in hatchway.toml or of the host's sshd.",
    ]
    listening = tuple(listening)
    if listening:
        lines += render.rule_lines(
            "Where sshd listens. These lines add to those of other files, but take the place of sshd's defaults: what "
            "it listened at before has to be named where no other file does.",
            *listening,
        )
    lines += render.rule_lines(
        "Not read by sshd: what clients are told to expect. HostKey holds for all ports.",
        *(f"{_HOST_KEY}{file}" for file in host_keys),
    )
    return "\n".join([*lines, "", *render.policy(config, version).splitlines()[1:]]) + "\n"


def socket_text(config: Config) -> str:
    """SOCKET_FILE: what systemd listens at, besides."""
    if config.sshd.listen == Config().sshd.listen:
        where = [str(config.sshd.port)]
    else:
        where = [address(each, config.sshd.port) for each in config.sshd.listen]
    lines = [
        render.MARKER,
        "# Hatchway's port, which the host's own sshd serves ('hatchway drop-in').",
        "[Socket]",
        *(f"ListenStream={each}" for each in where),
    ]
    return "\n".join(lines) + "\n"


def address(host: str, port: int) -> str:
    """An address and a port as sshd and systemd write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def pam_block(config: Config) -> str:
    """Our lines in the PAM file of the host's sshd. They stand before all others.

    A module that fails to do its part must not shut the host's accounts out of their port: where it cannot be told
    which port it is, the host's own lines decide, which let none of our logins in.

    The auth stack is gone through again for pam_setcred(3), without an earlier pam_authenticate(3) when somebody came
    by key. pam_exec then answers PAM_IGNORE, at which nothing may be skipped: libpam counts a jump as a failure there.
    So what is the host's goes on to its own lines, after a pam_permit that changes nothing for them. The session stack
    is gone through again at the end, where a jump counts as what its module answers: so there the jumps are at success.
    """
    first, last = config.ids.login_uids
    program = f"{config.paths.libexec_dir}/local-port"
    port = config.sshd.port
    helper = f"{config.paths.libexec_dir}/pam {config.auth_socket}"

    def rule(why: str, *rules: str) -> None:
        lines.extend(render.rule_lines(why, *rules))

    def elsewhere(kind: str) -> tuple[str, str]:
        return (
            f"{kind} [success=4 default=ignore] pam_succeed_if.so quiet uid < {first}",
            f"{kind} [success=3 default=ignore] pam_succeed_if.so quiet uid > {last}",
        )

    lines = [
        BEGIN,
        f"# Connections to port {port} are Hatchway's to decide, who is not to get in there included: wrong passwords",
        "# there count against no account of the host. See 'hatchway drop-in'. Nothing changes for other ports.",
    ]
    rule(
        "Passwords. The first line leaves other ports to the lines below all this. The second one is for when it could "
        "not be told.",
        f"auth [success=3 default=ignore] pam_exec.so quiet {program} is-not {port}",
        f"auth [success=ignore ignore=ignore default=2] pam_exec.so quiet {program} is {port}",
        "auth [success=ok default=die] pam_permit.so",
        f"auth [success=done ignore=ignore default=die] pam_exec.so quiet expose_authtok {helper}",
    )
    rule(
        "May it enter now, and are its volumes mounted? Asked of Hatchway's logins only, which have these uids.",
        *elsewhere("account"),
        f"account [success=ignore default=2] pam_exec.so quiet {program} is {port}",
        f"account [success=ok default=die] pam_exec.so quiet {helper}",
        "account [success=done default=die] pam_permit.so",
        *elsewhere("session"),
        f"session [success=ignore ignore=ignore default=2] pam_exec.so quiet type=open_session {program} is {port}",
        f"session [success=ok ignore=ignore default=die] pam_exec.so quiet type=open_session {helper}",
        "session [success=done default=die] pam_permit.so",
    )
    return "\n".join([*lines, END]) + "\n"


def without_block(text: str, path: str) -> str:
    """A PAM file without our lines. Raises ConflictError when it cannot be told which they are."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    if not begin:
        if END in text.splitlines():
            raise ConflictError(f"{path} has the end of Hatchway's lines, but not their beginning: take them out")
        return text
    _ours, end, after = rest.partition(f"{END}\n")
    if not end or BEGIN in after.splitlines():
        raise ConflictError(
            f"{path}: it cannot be told where Hatchway's lines end: take them out, {BEGIN!r} to {END!r}"
        )
    return before + after


def with_block(text: str, config: Config) -> str:
    """A PAM file with our lines before all others, in the place of those that are there. Raises ConflictError."""
    return pam_block(config) + without_block(text, pam_path(config))
