"""From the dedicated sshd to the host's own and back: what would change, doing it, and undoing it when that goes wrong.

Port 22 comes first: nothing is changed unless sshd accepts all of it, with the same settings for connections to its
other ports as before; and if any address that answered before does not answer afterwards, all is put back.

Needs root and systemd.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hatchway import trust
from hatchway.config import Config
from hatchway.errors import ConflictError, HatchwayError, HostError
from hatchway.sshd import dropin, hosts, install, render, version
from hatchway.sshd.files import replace

DEDICATED = "hatchway-sshd.service"

ANSWER_S = 15.0
"""How long is waited, in seconds, until sshd answers at an address after it was told to read its configuration."""

SETTLE_S = 1.0
"""How long, in seconds, sshd may take to read its configuration after it was told: "systemctl reload" does not wait."""

STARTED_WITH = ("-4", "-6", "-C", "-f", "-h", "-o", "-p")
"""Options of sshd that set what the drop-in sets or relies on, and win over its configuration."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it is and as it is to be; None: it is not there."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `theirs` and `ours` are where the host's sshd must answer when it is done. `dedicated` is
    whether the dedicated sshd is to be stopped, or started. Nothing is to be done unless `needed`."""

    enable: bool
    unit: hosts.Unit
    changes: tuple[Change, ...]
    theirs: tuple[Address, ...]
    ours: tuple[Address, ...]
    dedicated: bool
    needed: bool

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """What is run once the files are written, in order."""
        if not self.needed:
            return ()
        dedicated = (("systemctl", "stop" if self.enable else "start", DEDICATED),) * self.dedicated
        again = _again(self.unit) if self.unit.active or self.unit.socket else ()
        return (*dedicated, *again) if self.enable else (*again, *dedicated)

    @property
    def undone(self) -> Plan:
        """What puts everything back."""
        changes = tuple(Change(each.path, each.after, each.before) for each in self.changes)
        return dataclasses.replace(self, enable=not self.enable, changes=changes, ours=())


def _again(unit: hosts.Unit) -> tuple[tuple[str, ...], ...]:
    """Have the host's sshd read its configuration again. No session ends: KillMode=process."""
    if not unit.socket:
        return (("systemctl", "reload-or-restart", f"{unit.name}.service"),)
    # A socket whose service runs is not bound anew.
    stop = () if unit.each else (("systemctl", "stop", f"{unit.name}.service"),)
    return (("systemctl", "daemon-reload"), *stop, ("systemctl", "restart", f"{unit.name}.socket"))


def to_enable(config: Config) -> Plan:
    """What has to be done so that the host's sshd serves Hatchway's port. No changes: it does already.

    Raises ConflictError when something of the host is in the way, with what to do; HostError when it cannot be told.
    """
    unit = hosts.unit()
    if unit is None or not (unit.active or unit.socket):
        raise ConflictError("the host's own sshd does not run: start it first, systemctl start ssh")
    given = [word for word in hosts.options(unit.pid) if word[:2] in STARTED_WITH] if unit.active else []
    if given:
        raise ConflictError(
            f"the host's sshd was started with {' '.join(given)}, which wins over its configuration: take that out of "
            "SSHD_OPTS in /etc/default/ssh or of its unit, and put it into a file in /etc/ssh/sshd_config.d"
        )
    for name in (*install.HELPERS, "local-port"):
        trust.require(f"{config.paths.libexec_dir}/{name}", executable=True)
    if not os.path.isdir(dropin.DIRECTORY):
        raise ConflictError(f"there is no directory {dropin.DIRECTORY} that the host's sshd reads")
    if (found := hosts.match_before()) is not None:
        raise ConflictError(
            f"{found}: of two Match blocks the first one counts. Have 'Include {dropin.DIRECTORY}/*.conf' stand before "
            "all of them, in files whose names come behind 00-hatchway.conf"
        )
    binary = config.sshd.binary
    known = version.of(binary)
    before = hosts.settings(binary, None)
    _suits(config, before)
    listening = _listening(config, before, known)
    text = dropin.sshd_text(config, known, listening, _host_keys(before))
    _holds(config, known, text)
    pam = _text(dropin.pam_path(config))
    if pam is None:
        raise ConflictError(f"there is no {dropin.pam_path(config)}: PAM would ask another file for the host's sshd")
    # PAM first: its lines change nothing as long as sshd does not listen to our port.
    changes = [
        Change(dropin.pam_path(config), pam, dropin.with_block(pam, config)),
        Change(dropin.FILE, _text(dropin.FILE), text),
    ]
    if unit.socket and not hosts.generated():
        changes.append(Change(dropin.SOCKET_FILE, _text(dropin.SOCKET_FILE), dropin.socket_text(config)))
    changes = [each for each in changes if each.before != each.after]
    if not dropin.in_place(config):
        _is_free(config)
    theirs = _answering(before)
    if not theirs:
        raise ConflictError(
            f"the host's sshd answers at none of {', '.join(before['listenaddress'])} now, so it could not be told "
            "whether it does afterwards: see what is the matter with it first"
        )
    ours = _ours(config, text, unit)
    dedicated = _active(DEDICATED)
    needed = bool(changes) or dedicated or not all(_answers(each) for each in ours)
    return Plan(True, unit, tuple(changes), theirs, ours, dedicated, needed)


def to_disable(config: Config) -> Plan:
    """What has to be done so that the host's sshd is as it would be without Hatchway. Raises as `to_enable`."""
    unit = hosts.unit()
    if unit is None:
        raise ConflictError("the host's own sshd has no unit that is loaded")
    before = hosts.settings(config.sshd.binary, None)
    path = dropin.pam_path(config)
    pam = _text(path)
    changes = [
        Change(dropin.FILE, _text(dropin.FILE), None),
        Change(dropin.SOCKET_FILE, _text(dropin.SOCKET_FILE), None),
    ]
    if pam is not None:
        changes.append(Change(path, pam, dropin.without_block(pam, path)))
    left = tuple(each for each in changes if each.before != each.after)
    dedicated = _active("hatchway.service") and not _active(DEDICATED)
    return Plan(False, unit, left, _answering(before), (), dedicated, bool(left) or dedicated)


def problems(config: Config) -> tuple[str, ...]:
    """Why the sshd that is to serve the port may not do so as it should. Empty when all is well."""
    if not dropin.in_place(config):
        try:
            left = to_disable(config).changes
        except HatchwayError:
            return ()
        return tuple(f"{change.path} has lines of a drop-in that is not in place" for change in left)
    try:
        plan = to_enable(config)
    except HatchwayError as exc:
        return (str(exc),)
    found = tuple(f"{change.path} is not as it should be" for change in plan.changes)
    return found or ("the host's sshd does not serve the port",) * plan.needed


def carry_out(plan: Plan, tell: Callable[[str], None]) -> None:
    """Do it. `tell` is told of each step. Raises HostError when it did not work: all is as before then, or the text
    says what is not."""
    try:
        _do(plan, tell)
    except BaseException as exc:
        # Also when it is interrupted.
        tell("that did not work: everything is put back")
        try:
            _do(plan.undone, tell, all_of_it=True)
        except HostError as worse:
            raise HostError(f"{exc}; and it could not all be put back: {worse}") from exc
        if isinstance(exc, HatchwayError):
            raise HostError(f"{exc}. Everything is as it was before") from exc
        raise


def _do(plan: Plan, tell: Callable[[str], None], *, all_of_it: bool = False) -> None:
    """Raises HostError at the first step that does not work; with `all_of_it` after all steps."""
    problems: list[str] = []

    def step(action: Callable[[], None]) -> None:
        try:
            action()
        except HostError as exc:
            if not all_of_it:
                raise
            problems.append(str(exc))

    for change in plan.changes:
        tell(f"{'remove' if change.after is None else 'write'} {change.path}")
        step(functools.partial(_put, change))
    for command in plan.commands:
        tell(" ".join(command))
        step(functools.partial(_run, command))
    # Ours first: while the host's sshd has not done what it was told, only the others answer.
    step(functools.partial(_must_answer, plan.ours))
    step(functools.partial(_must_answer, plan.theirs))
    if problems:
        raise HostError("; ".join(problems))


def _suits(config: Config, before: hosts.Settings) -> None:
    """Raises ConflictError when the host's sshd cannot serve us at all."""
    if before.get("usepam") != ["yes"]:
        raise ConflictError("the host's sshd does not ask PAM: it needs 'UsePAM yes' in /etc/ssh/sshd_config")
    if (service := before.get("pamservicename", [dropin.SERVICE])) != [dropin.SERVICE]:
        raise ConflictError(f"the host's sshd has the PAM service {service[0]}: take PAMServiceName out of its files")
    if not any(value.split()[:1] == ["sftp"] for value in before.get("subsystem", ())):
        raise ConflictError(
            "the host's sshd has no service sftp, which can be switched on for all ports only: put "
            "'Subsystem sftp internal-sftp' into /etc/ssh/sshd_config"
        )
    if str(config.sshd.port) in before.get("port", ()):
        raise ConflictError(
            f"the host's sshd listens at port {config.sshd.port} for itself: give one of the two another port, that is "
            "sshd.port in /etc/hatchway/hatchway.toml"
        )


def _host_keys(before: hosts.Settings) -> list[str]:
    """The files of the host keys that are there: sshd leaves out those that are not. Raises ConflictError."""
    found = [file for file in before.get("hostkey", ()) if os.path.exists(file)]
    for file in found:
        if not os.path.exists(f"{file}.pub"):
            raise ConflictError(
                f"there is no {file}.pub, which clients are to be told: ssh-keygen -y -f {file} >{file}.pub"
            )
    return found


def _listening(config: Config, before: hosts.Settings, known: version.Version) -> tuple[str, ...]:
    """The lines by which the host's sshd listens to our port, and to what it listened to before."""
    family = before.get("addressfamily", ["any"])[0]
    wanted = {
        dropin.address(each, config.sshd.port)
        for each in config.sshd.listen
        if family == "any" or (":" in each) == (family == "inet6")
    }
    theirs = set(before["listenaddress"])

    def result(*lines: str) -> hosts.Settings:
        return hosts.settings(config.sshd.binary, dropin.sshd_text(config, known, lines, ()))

    # Port, if that will do: it is what administrators expect. Then only what no other file says is said here.
    line = f"Port {config.sshd.port}"
    own = [f"Port {each}" for each in before["port"] if each not in result(line)["port"]]
    if set(result(*own, line)["listenaddress"]) == theirs | wanted:
        return (*own, line)
    lines = [f"ListenAddress {each}" for each in sorted(wanted)]
    kept = set(result(*lines)["listenaddress"])
    own = [f"ListenAddress {each}" for each in sorted(theirs - kept)]
    if set(result(*own, *lines)["listenaddress"]) != theirs | wanted:
        raise ConflictError(
            f"the host's sshd listens at {', '.join(sorted(theirs))}; no lines are found by which it would listen at "
            f"{', '.join(sorted(wanted))} besides. Name both in /etc/ssh/sshd_config, as ListenAddress with a port"
        )
    return (*own, *lines)


def _holds(config: Config, known: version.Version, text: str) -> None:
    """Raises ConflictError unless the policy in `text` holds for our port, and nothing changes for the others."""
    policy = [line.split(None, 1) for line in render.policy(config, known).splitlines() if line.startswith("    ")]
    ours = hosts.settings(config.sshd.binary, text, user="hatchway-login", port=config.sshd.port)
    for keyword, value in [pair for pair in policy if pair[0] != "#"]:
        said = [each.lower() for each in ours.get(keyword.lower(), [])]
        # All of it: of lists, such as AllowGroups, those of later Match blocks are added.
        if " ".join(said) not in _alike(value):
            raise ConflictError(
                f"'{keyword} {value}' would not hold for connections to port {config.sshd.port}: the host's sshd has "
                f"{', '.join(said) or 'nothing'}. Look for {keyword} in {hosts.MAIN_FILE} and {dropin.DIRECTORY}"
            )
    for port in hosts.settings(config.sshd.binary, None)["port"]:
        for user in ("root", "nobody", "hatchway-login"):
            without, with_it = (
                hosts.settings(config.sshd.binary, each, user=user, port=int(port)) for each in (None, text)
            )
            keywords = {*without, *with_it} - {"port", "listenaddress"}
            if changed := sorted(each for each in keywords if without.get(each) != with_it.get(each)):
                raise ConflictError(f"{', '.join(changed)} would change for {user} at port {port}")


def _alike(value: str) -> set[str]:
    """What `sshd -T` may say for a value: some it writes otherwise than they are given (servconf.c, dump_config)."""
    return {value.lower(), {"yes": "1", "no": "0"}.get(value, value.lower())}


def _answering(settings: hosts.Settings) -> tuple[Address, ...]:
    """Where what listens can be reached from here, of that what does answer now."""
    return tuple(each for each in _reached(settings["listenaddress"]) if _answers(each))


def _ours(config: Config, text: str, unit: hosts.Unit) -> tuple[Address, ...]:
    if unit.socket:
        listening = [dropin.address(each, config.sshd.port) for each in config.sshd.listen]
    else:
        listening = list(hosts.settings(config.sshd.binary, text)["listenaddress"])
    return tuple(each for each in _reached(listening) if each[1] == config.sshd.port and _local(each))


def _reached(listening: Iterable[str]) -> list[Address]:
    found = []
    for each in listening:
        host, _, port = each.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
        found.append((host, int(port)))
    return sorted(set(found))


def _local(address: Address) -> bool:
    """Whether this host has it: without IPv6, say, there is no ::1."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as sock:
            sock.bind((address[0], 0))
    except OSError:
        return False
    return True


def _answers(address: Address, timeout_s: float = 5.0) -> bool:
    """Whether an SSH server speaks there, and goes on to what comes behind its first line (RFC 4253, 4.2 and 7.1)."""
    try:
        with socket.create_connection(address, timeout_s) as sock, sock.makefile("rwb") as stream:
            sock.settimeout(timeout_s)
            for _ in range(20):
                if re.match(rb"SSH-2\.0-", line := stream.readline(4096)):
                    stream.write(b"SSH-2.0-hatchway\r\n")
                    stream.flush()
                    return bool(stream.read(1))
                if not line:
                    return False
    except OSError:
        pass
    return False


def _must_answer(addresses: Iterable[Address]) -> None:
    """Raises HostError unless all of them do within ANSWER_S."""
    left = list(addresses)
    end = time.monotonic() + ANSWER_S
    while left := [each for each in left if not _answers(each)]:
        if time.monotonic() > end:
            raise HostError(f"no SSH server answers at {', '.join(dropin.address(*each) for each in left)}")
        time.sleep(0.2)


def _is_free(config: Config) -> None:
    """Raises ConflictError when something else than our own sshd listens to the port."""
    if _active(DEDICATED):
        return
    for each in _reached(dropin.address(host, config.sshd.port) for host in config.sshd.listen):
        with socket.socket(socket.AF_INET6 if ":" in each[0] else socket.AF_INET) as sock:
            if sock.connect_ex(each) == 0:
                raise ConflictError(
                    f"something listens at {dropin.address(*each)} already: 'hatchway doctor' says what"
                )


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise HostError(f"{path}: {exc}") from exc


def _active(unit: str) -> bool:
    return hosts.run(["systemctl", "is-active", "--quiet", unit]).returncode == 0


def _put(change: Change) -> None:
    """Write or remove a file, in one step. Raises HostError."""
    # What a link leads to, and not the link.
    path = os.path.realpath(change.path)
    try:
        if change.after is None:
            if os.path.lexists(path):
                os.unlink(path)
            if change.path == dropin.SOCKET_FILE:
                _remove_empty(os.path.dirname(path))
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        replace(path, change.after, stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644)
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror}") from exc


def _remove_empty(directory: str) -> None:
    """Remove the directory of a unit's additions unless there are others."""
    try:
        os.rmdir(directory)
    except OSError:
        return


def _run(command: tuple[str, ...]) -> None:
    done = hosts.run(command, timeout_s=90.0)
    if "reload-or-restart" in command:
        time.sleep(SETTLE_S)
        # It may have ended: one that systemd had listened for does, once systemd does so no more, for then it is in its
        # own way.
        if not _active(command[-1]):
            return _run(("systemctl", "restart", command[-1]))
    if done.returncode != 0:
        raise HostError(f"{' '.join(command)}: {(done.stderr + done.stdout).strip() or done.returncode}")
    return None
