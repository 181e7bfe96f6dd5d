"""`hatchway run`: the same processes systemd would run, in the foreground of one.

It makes what units and package would have made (see `provision`; sshd's files), starts each process with the uid and
sockets it is to have, restarts what dies, and on SIGTERM or Ctrl-C stops everything and takes away
what it made. Nothing of what it does itself is on the way of a login.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from hatchway import log, provision
from hatchway.config import Config
from hatchway.errors import HostError, RefusedError, plain_errors
from hatchway.host import processes
from hatchway.host.records import Records
from hatchway.kept import DESCRIPTORS_MAX, Kept, Messages, room
from hatchway.kernel import limits
from hatchway.printable import harmless
from hatchway.sshd import install

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
RESTART_AFTER_S = (0.2, 0.5, 1.0, 2.0, 5.0)
LOG_LINE_MAX = 65536
"""Bytes. A longer line of a process's log is broken."""

WATCHDOG_S = 60.0
"""Longest a process may say nothing of being well; then it is killed, and started again."""

STEADY_S = 60.0
"""A process that ran this long starts again at once when it dies."""

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Service:
    """One process to keep running.

    `notifies`: it says when it is ready, and, again and again, that it is well. `hands_over`: it leaves descriptors.
    """

    name: str
    argv: tuple[str, ...]
    account: provision.Account
    groups: tuple[int, ...] = ()
    sockets: tuple[str, ...] = ()
    notifies: bool = True
    hands_over: bool = False


@dataclass(slots=True)
class Running:
    """A service and its present process. `kept` is what it leaves for the next one."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    stopping: bool = False
    ready: trio.Event = field(default_factory=trio.Event)
    kept: Kept = field(default_factory=lambda: Kept(0))


def run(config: Config, config_path: Path | None) -> None:
    """Run everything until SIGTERM or SIGINT. Needs root. Raises HatchwayError when it cannot start."""
    if os.geteuid() != 0:
        raise RefusedError("'hatchway run' needs root: it mounts volumes and starts sshd")
    log.configure("supervisor", config.log.level)
    os.umask(0o022)
    # What we keep for hostd. Processes inherit it: sshd is not meant to have a million.
    limits.raise_open_files(3 * DESCRIPTORS_MAX + 1024)
    # Passwords pass through sshd, which we cannot tell to be not dumpable, and the helpers it starts.
    limits.no_core_dumps()
    with plain_errors():
        trio.run(_run, config, config_path)


async def _run(config: Config, config_path: Path | None) -> None:
    with ExitStack() as stack:
        stack.enter_context(provision.run_directory(config))
        records = Records(config.paths.userdb_dir, config.paths.run_dir)
        stack.callback(records.withdraw_all)
        accounts = provision.accounts(config, records)
        provision.state_directory(config, accounts["core"])
        if config.web.enabled:
            provision.web_directory(config, accounts["web"])
        stack.callback(install.withdraw, _prepare_sshd(config))
        if _prepare_signin(config):
            stack.callback(install.withdraw_signin_service, config)
        provision.require_free_port(config)
        listeners = stack.enter_context(provision.sockets(config, accounts))
        wanted = services(config, config_path, accounts, install.argv(config))
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                running = [Running(each, kept=Kept(room() if each.hands_over else 0)) for each in wanted]
                try:
                    for one in running:
                        nursery.start_soon(_keep_running, config, one, listeners)
                        with trio.move_on_after(READY_TIMEOUT_S) as waiting:
                            await one.ready.wait()
                        if waiting.cancelled_caught:
                            raise HostError(f"{one.service.name} was not ready in {READY_TIMEOUT_S:g} s")
                    await _sshd_answers(config, running[-1])
                    log.get().info("running", port=config.sshd.port, listen=list(config.sshd.listen))
                    async for _ in signals:
                        break
                finally:
                    with trio.CancelScope(shield=True):
                        await _stop(running)
                    for one in running:
                        one.kept.close()
                    nursery.cancel_scope.cancel()


def _prepare_sshd(config: Config) -> install.Prepared:
    """sshd's files. A PAM service that an earlier run made, and was killed before it removed, is ours to remove."""
    prepared = install.prepare(config)
    return dataclasses.replace(prepared, pam_created=_made(config, "pam-service-made", prepared.pam_created))


def _prepare_signin(config: Config) -> bool:
    """The PAM service by which operators sign in; whether it is ours to remove, as `_prepare_sshd`."""
    return _made(config, "signin-service-made", config.web.enabled and install.put_signin_service(config))


def _made(config: Config, name: str, now: bool) -> bool:
    """Whether a file was made, `now` or by an earlier run, which is remembered by the file `name`."""
    made = f"{config.paths.run_dir}/{name}"
    if now and not os.path.exists(made):
        with open(made, "w", encoding="ascii"):
            pass
    return os.path.exists(made)


def services(
    config: Config, config_path: Path | None, accounts: dict[str, provision.Account], sshd: tuple[str, ...]
) -> list[Service]:
    """What is run, in the order in which it starts. The package's units hatchway-<name>.service run the same."""

    def python(module: str) -> tuple[str, ...]:
        option = () if config_path is None else ("--config", str(config_path))
        return (sys.executable, "-I", "-m", module, *option)

    core = ("auth", "admin", "catalog")
    signin = Service("signin", python("hatchway.signin.main"), accounts["root"], sockets=("signin",))
    return [
        Service("workers", python("hatchway.host.zygote"), accounts["root"], sockets=("workers",), hands_over=True),
        Service("hostd", python("hatchway.host.main"), accounts["root"], sockets=("hostd",), hands_over=True),
        *([signin] if config.web.enabled else []),
        Service(
            "core",
            python("hatchway.daemon"),
            accounts["core"],
            sockets=(*core, "web") if config.web.enabled else core,
        ),
        Service(
            "catalog",
            python("hatchway.catalog.main"),
            accounts["catalog"],
            groups=provision.engine_groups(config),
        ),
        *([Service("web", python("hatchway.web.main"), accounts["web"])] if config.web.enabled else []),
        Service("sshd", sshd, accounts["root"], notifies=False),
    ]


async def _keep_running(config: Config, one: Running, listeners: dict[str, socket.socket]) -> None:
    logger = log.get(service=one.service.name)
    failures = 0
    while not _stopping(one):
        started = trio.current_time()
        await _run_once(config, one, listeners)
        if _stopping(one):
            return
        if not one.ready.is_set():
            raise HostError(f"{one.service.name} ended before it was ready; its message is above")
        failures = 0 if trio.current_time() - started > STEADY_S else failures + 1
        delay = RESTART_AFTER_S[min(failures, len(RESTART_AFTER_S) - 1)]
        logger.error("process ended, starting it again", delay_s=delay)
        await trio.sleep(delay)


def _stopping(one: Running) -> bool:
    return one.stopping  # asked anew: it changes while we wait


async def _run_once(config: Config, one: Running, listeners: dict[str, socket.socket]) -> None:
    service = one.service
    listening = [(name, listeners[name].fileno()) for name in service.sockets]
    with _notify_socket(config, service) as (address, incoming):
        environment = dict(_ENVIRONMENT)
        if service.notifies:
            environment["NOTIFY_SOCKET"] = address
            environment["WATCHDOG_USEC"] = str(int(WATCHDOG_S * 1e6))
        # Not our own standard error: that may be a terminal, which whoever breaks into a process could read from.
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                process = _start(service, listening + one.kept.all(), environment, write_end)
            except HostError:
                if not one.kept.all():
                    raise
                # Better its sessions end than that nobody can be kept out any more.
                log.get().error("cannot be started with what was left for it; it starts without", service=service.name)
                one.kept.close()
                process = _start(service, listening, environment, write_end)
            one.process = process
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        trio.lowlevel.spawn_system_task(_copy_log, service.name, read_end)
        async with trio.open_nursery() as nursery:
            watch = processes.Process(process.pid)
            if service.notifies:
                well = trio.CancelScope()
                messages = Messages(
                    incoming, one.kept, functools.partial(_is_ready, one, well), functools.partial(_put_off, well)
                )
                nursery.start_soon(messages.follow)
                nursery.start_soon(_watch_over, one, well, watch)
            else:
                one.ready.set()
            try:
                await watch.wait()
            finally:
                watch.close()
            process.wait()
            # What it said last; not whether it is ready, now that it has ended.
            Messages(incoming, one.kept, lambda: None).drain()
            nursery.cancel_scope.cancel()


def _is_ready(one: Running, well: trio.CancelScope) -> None:
    one.ready.set()
    _put_off(well)


def _put_off(well: trio.CancelScope) -> None:
    well.deadline = trio.current_time() + WATCHDOG_S


async def _watch_over(one: Running, well: trio.CancelScope, process: processes.Process) -> None:
    """Kill `process` when `well` ends, which its messages put off."""
    with well:
        await trio.sleep_forever()
    if not _stopping(one):
        log.get().error("process killed, it does not say that it is well", service=one.service.name)
        process.signal(signal.SIGKILL)


async def _copy_log(name: str, read_end: int) -> None:
    """Copy what a process and those it started write to our standard error, line by line, harmless to a terminal.

    `name` stands in front of each: whatever it says of itself, it is the core's only if the core's processes wrote it.
    Ends when the last of them has closed it: what hostd's workers say outlives hostd.
    """
    async with trio.lowlevel.FdStream(read_end) as stream:
        rest = b""
        while chunk := await stream.receive_some(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LOG_LINE_MAX:
                lines, rest = [*lines, rest], b""
            # sshd ends its lines with \r\n.
            said = (harmless(line.rstrip(b"\r").decode("utf-8", "replace")) for line in lines)
            text = "".join(f"{name}: {line}\n" for line in said)
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except OSError:
                pass  # nobody reads our log any more; the processes must not stop for that


def _start(
    service: Service, passed: list[tuple[str, int]], environment: dict[str, str], log_end: int
) -> subprocess.Popen[bytes]:
    """Start a process with `passed`, names and descriptors, as 3, 4, … (sd_listen_fds(3)), logging to `log_end`."""
    if passed:
        environment["LISTEN_FDS"] = str(len(passed))
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
    # subprocess can only pass descriptors under the numbers they have here, so a shell-free helper moves them.
    argv = list(service.argv)
    if passed:
        numbers = ",".join(str(number) for _, number in passed)
        argv = [sys.executable, "-IS", "-c", _MOVE_DESCRIPTORS, numbers, *argv]
    argv = [*_privileges(service), *argv]
    try:
        return subprocess.Popen(
            argv,
            executable=argv[0],
            stdin=subprocess.DEVNULL,
            stdout=log_end,
            stderr=log_end,
            env=environment,
            cwd="/",
            pass_fds=[number for _, number in passed],
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        raise HostError(f"{service.name} cannot be started: {exc}") from exc


def _privileges(service: Service) -> list[str]:
    """The setpriv(1) command that gives a process its uid and takes everything else away.

    pdeathsig: when the supervisor is killed everything stops in order, instead of running on without it.
    """
    command = ["/usr/bin/setpriv", "--pdeathsig", "TERM"]
    account = service.account
    if account.uid:
        groups = ",".join(str(gid) for gid in service.groups)
        command += ["--reuid", str(account.uid), "--regid", str(account.gid)]
        command += ["--groups", groups] if groups else ["--clear-groups"]
        command += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return [*command, "--"]


_MOVE_DESCRIPTORS = """
import os, sys
numbers = [int(number) for number in sys.argv[1].split(",")]
# First away from where they are to go: one of them may already lie there.
beyond = max(*numbers, 3 + len(numbers)) + 1
high = [os.dup2(number, beyond + place, inheritable=False) for place, number in enumerate(numbers)]
for number in numbers:
    os.close(number)
for place, number in enumerate(high):
    os.dup2(number, 3 + place, inheritable=True)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def _notify_socket(config: Config, service: Service) -> Iterator[tuple[str, socket.socket]]:
    path = f"{config.paths.run_dir}/notify-{service.name}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        provision.bind(sock, path, service.account.uid, service.account.gid)
        try:
            yield path, sock
        finally:
            if os.path.lexists(path):
                os.unlink(path)


async def _sshd_answers(config: Config, sshd: Running) -> None:
    """Wait until our sshd listens. Raises HostError when it does not, or has ended."""
    addresses = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    candidates = [addresses.get(address, address) for address in config.sshd.listen]
    with trio.move_on_after(READY_TIMEOUT_S / 3):
        while sshd.process is not None and sshd.process.poll() is None:
            for address in candidates:
                try:
                    stream = await trio.open_tcp_stream(address, config.sshd.port)
                except OSError:
                    continue
                await stream.aclose()
                return
            await trio.sleep(0.05)
    raise HostError(f"sshd does not listen on port {config.sshd.port}; its message is above")


async def _stop(running: list[Running]) -> None:
    """Stop in the reverse order of starting: first nobody new comes in, last the mounts go."""
    for one in running:
        one.stopping = True
    left: list[processes.Process] = []
    for one in reversed(running):
        process = one.process
        if process is None or process.poll() is not None:
            continue
        watch = processes.Process(process.pid)
        if one.service.name == "sshd":
            # Its connections outlive it; hostd ends those that are sessions, we what has not logged in yet.
            left = processes.descendants(process.pid)
        watch.signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            await watch.wait()
        if watch.alive():
            log.get().error("process killed, it did not stop", service=one.service.name)
            watch.signal(signal.SIGKILL)
            await watch.wait()
        watch.close()
    for process_left in left:
        process_left.signal(signal.SIGKILL)
        process_left.close()
