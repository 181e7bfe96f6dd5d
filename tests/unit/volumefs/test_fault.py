"""What a client hears of an error."""

from __future__ import annotations

import errno

import pytest

from hatchway.volumefs.fault import client_errno, failure


@pytest.mark.parametrize(
    ("number", "heard"),
    [
        (errno.EROFS, errno.EACCES),
        (errno.EAGAIN, errno.EBUSY),
        (errno.EMFILE, errno.ENFILE),
        (errno.ENOSYS, errno.EOPNOTSUPP),
        (errno.ENOTCONN, errno.EIO),
        (0, errno.EIO),
        (-5, errno.EIO),
        (512, errno.EIO),
        (524, errno.EIO),
    ],
)
def test_translated(number: int, heard: int) -> None:
    assert client_errno(OSError(number, "")) == heard


@pytest.mark.parametrize(
    "name",
    [
        "EDQUOT",
        "ENOSPC",
        "ESTALE",
        "ENOENT",
        "EACCES",
        "EPERM",
        "EEXIST",
        "ENOTEMPTY",
        "ENOTDIR",
        "EISDIR",
        "EXDEV",
        "ELOOP",
        "ENAMETOOLONG",
        "EFBIG",
        "EIO",
        "EINVAL",
        "EBADF",
        "ETXTBSY",
        "EMLINK",
        "EOPNOTSUPP",
    ],
)
def test_passed_on(name: str) -> None:
    number = getattr(errno, name)
    assert client_errno(failure(number)) == number


def test_without_a_number() -> None:
    assert client_errno(OSError("made up")) == errno.EIO


def test_every_answer_is_one_the_kernel_takes() -> None:
    assert all(0 < client_errno(OSError(number, "")) <= 511 for number in range(-10, 600))
    # ENOSYS would switch an operation off for the whole mount.
    assert errno.ENOSYS not in {client_errno(OSError(number, "")) for number in range(600)}
