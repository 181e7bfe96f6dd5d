"""The process in which crypt(3) runs: one hash, from standard input to standard output. Only ever run as a file.

Input is the setting (a stored hash will do), NUL, and the password in UTF-8; output is the hash, or what libcrypt
answers for a setting it does not take. Imports nothing of ours: what is in this process besides one password and one
hash is nothing that could be lost.
"""

from __future__ import annotations

import resource
import sys

import crypt_r

CPU_MAX_S = 5
MEMORY_MAX_BYTES = 640 * 1024 * 1024
"""Address space. The dearest hash that is stored takes 256 MiB; Python and its libraries some 30."""


def main() -> None:
    """Read, hash, write."""
    # A core dump would hold the password. One byte: a limit of none does not stop those that are piped to a program
    # (core(5)), and 1 is what the kernel itself uses to say never (fs/coredump.c).
    _lower(resource.RLIMIT_CORE, 1)
    _lower(resource.RLIMIT_CPU, CPU_MAX_S)
    _lower(resource.RLIMIT_AS, MEMORY_MAX_BYTES)
    setting, _, password = sys.stdin.buffer.read(4096).partition(b"\0")
    sys.stdout.write(crypt_r.crypt(password.decode(), setting.decode("ascii")))


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (least, least))


if __name__ == "__main__":
    main()
