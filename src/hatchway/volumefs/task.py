"""A volume task: a process that does one thing in one volume, and ends.

What it may be is a fixed table. It is forked by the zygote and confined as a worker is, with the capabilities of its
row and no others, before it is told what to do.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from hatchway.kernel.privileges import Cap
from hatchway.volumefs.confinement import confine
from hatchway.volumefs.delivery import Delivery, DeliveryError
from hatchway.volumefs.fault import LimitError
from hatchway.volumefs.keyfiles import read_keys
from hatchway.volumefs.ledger import Ledger
from hatchway.volumefs.names import component
from hatchway.volumefs.ownership import Owner, SquashView
from hatchway.volumefs.quota import Quota
from hatchway.wire.frames import decode
from hatchway.wire.host import Delivered, KeyFiles, Withdrawal, Withdrawn
from hatchway.wire.task import Perform, Problem, Put, ReadKeyFiles, Take, TaskFailed, TaskKind, send_answer
from hatchway.wire.worker import MAX_PACKET

BUSY_S: Final = 4.0
"""How long it is tried again while a session of the volume or a lease is in the way."""

_PAUSE_S = 0.02

_NO_DIRECTORY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Place:
    """What a task has: the volume's root (O_PATH), the directory of its own descriptors, and the ledger, if any."""

    root_fd: int
    proc_fd_dir: int
    quota: Quota


@dataclass(frozen=True, slots=True)
class _Row:
    """The request it takes, what it does, and the capabilities that needs."""

    request: type
    perform: Callable[[Any, Place], object]
    caps: frozenset[Cap]


def _read_keys(request: ReadKeyFiles, place: Place) -> KeyFiles:
    return read_keys(place.root_fd, place.proc_fd_dir, request.token)


def _put(request: Put, place: Place) -> Delivered:
    directory = _walk(place.root_fd, request.directory)
    try:
        delivery = Delivery(directory, place.proc_fd_dir, place.quota)
        new = None if request.owner is None else Owner(request.owner.uid, request.owner.gid)
        owner = SquashView(0, 0, new=new).owner_of_new(os.fstat(directory), Owner(0, 0))
        _patiently(lambda: delivery.deliver(request.key.value, owner, request.replaces))
        return Delivered(delivery.changed)
    finally:
        os.close(directory)


def _take(request: Take, place: Place) -> Withdrawn:
    try:
        directory = _walk(place.root_fd, request.directory)
    except DeliveryError:
        return Withdrawn(Withdrawal.ABSENT)
    try:
        delivery = Delivery(directory, place.proc_fd_dir, place.quota)
        return Withdrawn(_patiently(lambda: delivery.withdraw(request.hashes)))
    finally:
        os.close(directory)


_TABLE: Mapping[TaskKind, _Row] = {
    # DAC_OVERRIDE: a file's mode says who may read it in the container.
    TaskKind.READ_KEYS: _Row(ReadKeyFiles, _read_keys, frozenset({Cap.DAC_OVERRIDE})),
    # CHOWN: the file is to be the container user's. FOWNER: to take the one before out of a sticky directory.
    TaskKind.DELIVER: _Row(Put, _put, frozenset({Cap.DAC_OVERRIDE, Cap.CHOWN, Cap.FOWNER})),
    TaskKind.WITHDRAW: _Row(Take, _take, frozenset({Cap.DAC_OVERRIDE, Cap.FOWNER})),
}


def _walk(root_fd: int, names: tuple[bytes, ...]) -> int:
    """The directory that `names` lead to, an O_PATH descriptor. Raises DeliveryError, OSError."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(b".", flags, dir_fd=root_fd)
    for name in names:
        try:
            there = os.open(component(name), flags, dir_fd=here)
        except OSError as exc:
            if exc.errno in _NO_DIRECTORY:
                raise DeliveryError(Problem.NO_DIRECTORY) from None
            raise
        finally:
            os.close(here)
        here = there
    return here


def _patiently(call: Callable[[], Any]) -> Any:
    """Result of `call`, which is called again for a while when something is in the way. Raises what it raises."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return call()
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DeliveryError(Problem.BUSY) from None
        time.sleep(_PAUSE_S)


def perform(kind: TaskKind, request: object, place: Place) -> object:
    """The answer to `request`, which must be one of `kind`'s; TaskFailed when it cannot be done."""
    row = _TABLE[kind]
    assert isinstance(request, row.request)
    try:
        return row.perform(request, place)
    except DeliveryError as exc:
        return TaskFailed(exc.problem)
    except LimitError as exc:
        return TaskFailed(Problem.LIMIT, exc.errno or 0)
    except OSError as exc:
        return TaskFailed(_problem(exc), exc.errno or 0)


def _problem(exc: OSError) -> Problem:
    match exc.errno:
        case errno.EROFS:
            return Problem.READ_ONLY
        case errno.ENOSPC | errno.EDQUOT:
            return Problem.NO_ROOM
        case errno.EAGAIN | errno.EBUSY:
            return Problem.BUSY
        case _:
            return Problem.FAILED


def run(spec: Perform, volume_fd: int, *rest: int) -> None:
    """Confine this freshly forked process and do what is asked on the control socket. Never returns.

    `rest` are the descriptors of the volume's ledger, where there is a change to make, and of the control socket.
    """
    *ledgers, control_fd = rest
    status = 1
    control = socket.socket(fileno=control_fd)
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        structlog.contextvars.bind_contextvars(process="task", task=spec.kind.value, source=spec.source)
        row = _TABLE[spec.kind]
        proc_fd = confine({volume_fd, *rest}, uid=spec.worker_uid, permitted=row.caps, effective=row.caps)
        packet = control.recv(MAX_PACKET)
        if packet:  # else hostd is gone, or has thought better of it
            request = decode(packet, row.request)
            ledger = Ledger(ledgers[0]) if ledgers else None
            send_answer(control, perform(spec.kind, request, Place(volume_fd, proc_fd, Quota(ledger))))
            status = 0
    except BrokenPipeError:
        pass  # nobody wants to know any more
    except BaseException as exc:
        traceback.print_exc()
        try:
            send_answer(control, TaskFailed(Problem.FAILED, getattr(exc, "errno", None) or 0))
        except OSError:
            pass  # hostd is gone
    finally:
        os._exit(status)
