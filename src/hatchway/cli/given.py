"""What people give a command besides its arguments: at a prompt, on standard input, in a file. All of it bounded.

A secret comes in no other way. What is in argv or the environment can be seen by others, and is kept: `ps`, shells'
histories, the logs of sudo. No error repeats what was given.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import click

from hatchway.errors import UsageError

SECRET_BYTES_MAX = 4096
"""Bytes of the longest line that is read as a secret. What a password or hash may have, the daemon says."""

PUBLIC_BYTES_MAX = 16 * 1024
"""Bytes of the largest file that is read as a public key: twice what any has."""

STDIN = "-"
"""What is named instead of a file."""


def secret(what: str, of: str, *, from_stdin: bool, twice: bool) -> str:
    """`what` of the login `of`: typed without echo, if there is a terminal and not `from_stdin`, else a line of input.

    `twice`: typed again, to be sure. Raises UsageError; click.Abort when there will be none.
    """
    if from_stdin or not is_terminal():
        given = _text(_line(SECRET_BYTES_MAX, what), what)
        if not given:
            raise UsageError(f"there is no {what} on standard input: give it as one line")
        return given
    # On standard error: standard output is for the answer alone, which may be JSON.
    typed: str = click.prompt(f"New {what} for {of}", hide_input=True, confirmation_prompt=twice, err=True)
    return _text(typed.encode(errors="surrogateescape"), what)


def public_key(path: str) -> str:
    """What is in the file `path`, or on standard input for STDIN. Raises UsageError."""
    what = "public key"
    if path != STDIN:
        try:
            with open(path, "rb") as file:
                return _text(_all(file, path), what)
        except OSError as exc:
            raise UsageError(f"{path}: {exc.strerror or exc}") from None
    if is_terminal():
        click.echo("The public key, one line such as 'ssh-ed25519 AAAA... comment':", err=True)
        return _text(_line(PUBLIC_BYTES_MAX, what), what)
    return _text(_all(_input(), "standard input"), what)


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def _input() -> BinaryIO:
    """Standard input. Raises UsageError when it is closed."""
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin.buffer


def _line(most: int, what: str) -> bytes:
    """The first line of standard input without its end."""
    try:
        line = _input().readline(most + 2)
    except OSError as exc:
        raise UsageError(f"standard input: {exc.strerror or exc}") from None
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(line) > most:
        raise UsageError(f"the {what} on standard input is longer than {most} bytes")
    return line


def _all(file: BinaryIO, name: str) -> bytes:
    """All of `file`."""
    content = file.read(PUBLIC_BYTES_MAX + 1)
    if len(content) > PUBLIC_BYTES_MAX:
        raise UsageError(f"{name}: larger than {PUBLIC_BYTES_MAX // 1024} KiB, as no public key is")
    return content


def _text(given: bytes, what: str) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError:
        raise UsageError(f"the {what} is not UTF-8 text") from None
