"""Files and directories outside a volume that nobody but the test may touch, and how one knows that somebody has.

Everything in them may be read and written by everybody: what keeps a session away from them is containment alone.
Their contents and some of their names hold a word that is nowhere else. The kernel reports each use of them
(inotify(7): opened, listed, read, written, changed, created in, moved, removed), and before and after are compared.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import stat
import struct
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

IN_ALL_EVENTS = 0xFFF
_EVENT = struct.Struct("iIII")
_EVENT_NAMES = {
    0x1: "read", 0x2: "written", 0x4: "attributes changed", 0x8: "closed after writing", 0x10: "closed",
    0x20: "opened", 0x40: "moved from", 0x80: "moved to", 0x100: "created in", 0x200: "deleted from",
    0x400: "deleted", 0x800: "moved", 0x4000: "too many events",
}  # fmt: skip


class Breach(AssertionError):  # noqa: N818 - what it is, in the words of this test
    """A canary was touched."""


class Canaries:
    """Canary trees, watched from `watch` to `check`. `word` is in every content and in some names of theirs."""

    def __init__(self) -> None:
        self.word = f"canary-{secrets.token_hex(12)}".encode()
        self._trees: list[Path] = []
        self._devices: list[Path] = []
        self._before: dict[str, object] = {}
        self._inotify = -1
        self._watched: dict[int, str] = {}

    def plant(self, tree: Path) -> Path:
        """Make the canary directory `tree`, with the names that are in the racer's directories too. Returns it."""
        sub = tree / "sub"
        sub.mkdir(parents=True)
        for directory in (tree, sub):
            for name in ("leaf", os.fsdecode(self.word)):
                (directory / name).write_bytes(self.word)
                (directory / name).chmod(0o666)
            directory.chmod(0o777)
        os.setxattr(tree / "leaf", "user.canary", self.word)
        self._trees.append(tree)
        return tree

    def device_image(self, path: Path) -> Path:
        """A file to be the contents of a canary device."""
        path.write_bytes(self.word.ljust(512, b".") * 2048)
        self._devices.append(path)
        return path

    def watch(self) -> None:
        """From now on nothing may touch them."""
        self._before = self._state()
        self._inotify = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._inotify >= 0
        for tree in self._trees:
            for path in (tree, *tree.rglob("*")):
                number = LIBC.inotify_add_watch(self._inotify, os.fsencode(path), IN_ALL_EVENTS)
                assert number >= 0, path
                self._watched[number] = str(path)

    def events(self) -> list[str]:
        """What happened to them since the last call, at most some thousand things."""
        found = []
        try:
            data = os.read(self._inotify, 1 << 18)
        except BlockingIOError:
            return []
        at = 0
        while at < len(data):
            number, mask, _cookie, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            what = [text for bit, text in _EVENT_NAMES.items() if mask & bit]
            found.append(f"{self._watched.get(number, '?')}/{os.fsdecode(name)}: {', '.join(what)}")
            at += _EVENT.size + length
        return found

    def differences(self) -> list[str]:
        """How they differ from what they were. Reading them for that is an event, so call `events` before."""
        after = self._state()
        changed = [key for key in self._before.keys() & after.keys() if self._before[key] != after[key]]
        found = [f"{key}: was {self._before[key]}, is {after[key]}" for key in sorted(changed)]
        found += [f"{key} is new" for key in sorted(after.keys() - self._before.keys())]
        return found + [f"{key} is gone" for key in sorted(self._before.keys() - after.keys())]

    def check(self) -> None:
        """Nothing has touched them since `watch`. Raises Breach."""
        found = self.events()
        os.close(self._inotify)
        self._inotify = -1
        found += self.differences()
        if found:
            raise Breach("canaries were touched:\n  " + "\n  ".join(found[:40]))

    def close(self) -> None:
        """Stop watching, whatever happened."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def _state(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for tree in self._trees:
            for path in (tree, *sorted(tree.rglob("*"))):
                st = os.lstat(path)
                kept = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_ino)
                found[f"{path} attributes"] = (*kept, st.st_mtime_ns, st.st_ctime_ns)
                found[f"{path} xattrs"] = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
                if stat.S_ISREG(st.st_mode):
                    found[f"{path} content"] = path.read_bytes()
            # What stands beside the tree: nothing may be created there either.
            found[f"{tree.parent} names"] = sorted(os.listdir(tree.parent))
        for device in self._devices:
            found[f"{device} content"] = hash(device.read_bytes())
        return found
