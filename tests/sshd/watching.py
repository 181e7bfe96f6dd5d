"""Looks for secrets where anybody could see them: arguments and environments of all processes, and files."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization

HELPERS = {"pam": b"libexec/hatchway/pam", "authorized-keys": b"libexec/hatchway/authorized-keys"}
"""Processes of a login that are over too soon to be looked for by name: what their arguments hold."""

OTHERS = {"crypt": b"credentials/crypt_process", "core": b"hatchway.daemon", "sshd": b"[priv]"}


def forms(secret: str) -> set[bytes]:
    """What to look for: `secret` as text, base64 and hexadecimal, of a private key its numbers too."""
    raw = [secret.encode()]
    if "PRIVATE KEY" in secret:
        key = serialization.load_ssh_private_key(secret.encode(), None)
        lines = secret.splitlines()[1:-1]
        # The public half comes first, and anybody may see that.
        raw = [line.encode() for line in lines[len(lines) * 3 // 5 :] if len(line) > 40]
        raw.append(base64.b64decode("".join(lines))[-120:-60])
        if hasattr(key, "private_bytes_raw"):
            raw.append(key.private_bytes_raw())
    found = set()
    for one in raw:
        # base64 of a part is a part of that of the whole if it begins at a multiple of three.
        parts = (base64.b64encode(one[shift:])[: len(one) * 4 // 3 // 4 * 4 - 4] for shift in range(3))
        found |= {
            one,
            one.hex().encode(),
            one.hex().upper().encode(),
            one.decode("latin-1").encode("utf-16-le"),
            *parts,
        }
    return {one for one in found if len(one) >= 8}


class Watch:
    """Looks at /proc again and again, until the block is left. `seen` says what was found, and where.

    `limits` are the limits of core dumps, soft and hard, that were seen of kinds of process. The secrets may become
    more meanwhile.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.limits: dict[str, set[tuple[str, str]]] = {}
        self.rounds = 0
        self._forms: dict[bytes, str] = {}
        # Arguments of each process when it was looked at last, and what was looked for.
        self._looked: dict[str, tuple[bytes, dict[bytes, str]]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def keep_secret(self, name: str, secret: str) -> str:
        """Look for `secret` from now on; it is called `name` when it is found. Returns it."""
        self._forms = {**self._forms, **dict.fromkeys(forms(secret), name)}
        return secret

    def found_in(self, data: bytes) -> set[str]:
        """The names of the secrets in `data`."""
        return {name for form, name in self._forms.items() if form in data}

    def found_beneath(self, *directories: Path) -> set[str]:
        """The secrets in files, and where."""
        return {f"{name} in {path}" for path in _files(*directories) for name in self.found_in(path.read_bytes())}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.004):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    self._look_at(pid)
                except OSError:
                    continue  # it is over
            self.rounds += 1

    def _look_at(self, pid: str) -> None:
        process, looked_for = Path("/proc", pid), self._forms
        arguments = (process / "cmdline").read_bytes()
        before, before_for = self._looked.get(pid, (None, None))
        if arguments == before and looked_for is before_for:
            return  # its environment is of the same moment, and more looks are worth more
        self._looked[pid] = (arguments, looked_for)
        for what, data in (("arguments", arguments), ("environment", (process / "environ").read_bytes())):
            for name in self.found_in(data):
                self.seen.add(f"{name} in the {what} of {arguments.split(bytes(1))[:4]!r}")
        for kind, words in {**HELPERS, **OTHERS}.items():
            if words in arguments and kind not in self.limits:
                line = next(
                    line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core file")
                )
                if (process / "cmdline").read_bytes() == arguments:
                    self.limits[kind] = {(line.split()[4], line.split()[5])}


def _files(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        yield from (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
