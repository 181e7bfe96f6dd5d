"""The C library, called with errno. Shared by the modules of this package."""

from __future__ import annotations

import ctypes
import os
import platform

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

MACHINE = platform.machine()


def checked(result: int, what: str) -> int:
    """`result` of a call, or OSError with errno when it is negative. `what` names the call in the message."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, what: str, *args: int | bytes | ctypes.Array[ctypes.c_char] | object) -> int:
    """System call `number` (syscall(2)); integers are passed as longs. Raises OSError.

    Bytes are what C calls a string: ValueError for one with a NUL, of which the kernel would see another one.
    """
    if any(isinstance(arg, bytes) and b"\0" in arg for arg in args):
        raise ValueError(f"{what}: embedded null byte")
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return checked(int(LIBC.syscall(ctypes.c_long(number), *converted)), what)
