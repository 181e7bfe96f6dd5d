"""The helper that checks operators' passwords, as root: pam_unix tells only root about other people's.

A process that waits, and forks another for each question: that one reads it, asks PAM, answers and ends. So what a
module of PAM leaves behind, and the password, end with it, and one that hangs is killed. (systemd could start one for
each connection, Accept=yes; but that is a fresh Python for each, `hatchway run` would need a listener of another
kind, and the units would not run what it runs.) The one that waits reads nothing from anybody.

Only the core may ask. There are PARALLEL questions at once, and a no takes a second: so neither a core nor a web
process that somebody has broken into guesses faster than that. Who comes from where is for the core to weigh.
"""

from __future__ import annotations

import argparse
import math
import os
import pwd
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hatchway import config as configuration
from hatchway import log, trust
from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError, ProtocolError
from hatchway.kernel import limits, privileges
from hatchway.signin import checking, stack
from hatchway.wire import frames, notify
from hatchway.wire.service import inherited_socket, peer_of
from hatchway.wire.signin import REQUEST_MAX, CheckPassword, CheckStanding

PARALLEL = 3
"""Questions at once. The others wait in the socket's queue. The core asks about two passwords at once, so that whoever
is signed in does not wait for those who guess."""

ANSWER_S = 15
"""Longest a question may take, in seconds: a directory may be slow, and modules wait for it."""

FINISH_S = 5.0
"""How long, in seconds, stopping waits for questions that are being answered."""

Answer = Callable[[socket.socket], None]
"""Answers the question on a connection. It is in a process of its own, which ends with it."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A process that answers a question, until `deadline` of the monotonic clock."""

    pid: int
    ended: int
    deadline: float


class Desk:
    """Hands each connection to a process of its own. `uid` is whose questions are answered."""

    def __init__(self, listener: socket.socket, uid: int, answer: Answer, *, answer_s: float = ANSWER_S) -> None:
        self._listener = listener
        self._uid = uid
        self._answer = answer
        self._answer_s = answer_s
        self._children: dict[int, _Child] = {}
        self._logger = log.get(socket="signin")

    def serve(self, stop: int) -> None:
        """Until something can be read from the descriptor `stop`; then finish what is being answered."""
        every = notify.watchdog_s()
        well_at = time.monotonic()
        while True:
            if every is not None and time.monotonic() >= well_at:
                notify.well()
                well_at = time.monotonic() + every
            waiting = [self._listener.fileno()] if len(self._children) < PARALLEL else []
            ready = self._wait([stop, *waiting], every)
            if stop in ready:
                break
            if self._listener.fileno() in ready:
                self._accept()
        until = time.monotonic() + FINISH_S
        while self._children and time.monotonic() < until:
            self._wait([], until - time.monotonic())

    def _wait(self, descriptors: list[int], most_s: float | None) -> list[int]:
        """Which of `descriptors` can be read, after `most_s` seconds at the latest. Children that have ended
        are forgotten, those that are overdue killed."""
        poll = select.poll()
        for descriptor in (*descriptors, *self._children):
            poll.register(descriptor, select.POLLIN)
        deadlines = [child.deadline - time.monotonic() for child in self._children.values()]
        wait_s = min(*deadlines, math.inf, math.inf if most_s is None else most_s)
        found = [number for number, _ in poll.poll(None if wait_s == math.inf else max(0.0, wait_s) * 1000)]
        for child in list(self._children.values()):
            if child.ended in found:
                self._forget(child)
            elif time.monotonic() >= child.deadline:
                self._logger.error("question given up, PAM does not answer", after_s=self._answer_s)
                # It may wait for a disk, and a module may have made it another user's, whom its alarm ends.
                with suppress(PermissionError):
                    os.kill(child.pid, signal.SIGKILL)
                self._children[child.ended] = replace(child, deadline=math.inf)
        return found

    def _forget(self, child: _Child) -> None:
        """Of a child that has ended."""
        os.waitpid(child.pid, 0)
        os.close(child.ended)
        del self._children[child.ended]

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as exc:
            self._logger.warning("connection lost", error=str(exc))
            return
        with connection:
            peer = peer_of(connection)
            if peer.uid != self._uid:
                self._logger.warning("question refused", uid=peer.uid, pid=peer.pid)
                return
            pid = os.fork()
            if pid == 0:
                self._be_child(connection)
            ended = os.pidfd_open(pid)
            self._children[ended] = _Child(pid, ended, time.monotonic() + self._answer_s)

    def _be_child(self, connection: socket.socket) -> None:
        """Answer, and end: nothing of what the other process would do next may happen here."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            # Should the other process be gone, or a module have made it unable to kill this one.
            signal.alarm(int(self._answer_s) + 2)
            self._listener.close()
            self._answer(connection)
        except ProtocolError as exc:
            self._logger.warning("bad question", error=str(exc))
        except BrokenPipeError:
            self._logger.info("the core left before its answer")
        except Exception:
            self._logger.exception("question not answered")
        finally:
            os._exit(0)


def answer(group: str) -> Answer:
    """Answers by PAM and the host's accounts; the operators are those in `group`."""

    def answered(connection: socket.socket) -> None:
        question = frames.receive_blocking(connection, CheckPassword | CheckStanding, REQUEST_MAX)
        connection.sendall(frames.encode(checking.verdict(question, group)))

    return answered


def run(config: Config) -> None:
    """Answer the core until SIGTERM."""
    try:
        core_uid = pwd.getpwnam(config.ids.core_user).pw_uid
    except KeyError as exc:
        raise HostError(f"{exc.args[0]}: is the account of [ids] there? 'hatchway doctor' tells") from exc
    # Without it PAM would ask /etc/pam.d/other, which is somebody else's.
    trust.require(config.signin_pam_path)
    stack.load()
    stop, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    listener = inherited_socket("signin")
    log.get().info("ready")
    notify.ready()
    Desk(listener, core_uid, answer(config.web.operators_group)).serve(stop)


def main() -> None:
    """Entry point: `python -I -m hatchway.signin.main --config FILE`."""
    parser = argparse.ArgumentParser(prog="hatchway-signin")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("signin", config.log.level)
        if os.geteuid() != 0:
            raise HostError("hatchway-signin needs root: PAM tells nobody else about passwords")
        os.umask(0o077)
        limits.no_core_dumps()
        privileges.not_dumpable()
        privileges.no_new_privileges()
        privileges.bound(privileges.SIGNIN_CAPS)
        run(config)
    except HatchwayError as exc:
        log.fatal("hatchway-signin", exc)


if __name__ == "__main__":
    main()
