"""User and group records that nss-systemd reads: static files in /run/userdb, no daemon to hang.

Sources: nss-systemd(8), systemd's USER_RECORD and GROUP_RECORD documents. `<name>.user` is the record, `<uid>.user` a
symlink to it. Logins are host-wide names, so each is useless elsewhere: nologin shell, locked, without a password,
expired since 1970 for every PAM stack but ours (pam_unix(8) reads that through shadow).
Our records carry `hatchway`, the run directory they belong to: nothing without it is ever changed or removed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from hatchway.errors import ConflictError, HostError

_MARK = "hatchway"
_NOLOGIN = "/usr/sbin/nologin"


@dataclass(frozen=True, slots=True)
class Published:
    """A user or group record of some Hatchway. `owner` is that one's run directory, `number` the uid or gid."""

    file: str
    name: str
    number: int
    owner: str


class Records:
    """The records of one Hatchway in `directory`; `owner` (its run directory) tells them from another's."""

    def __init__(self, directory: str, owner: str) -> None:
        self._directory = directory
        self._owner = owner

    def publish_login(self, name: str, uid: int, gid: int, home: str) -> None:
        """Make `name` a user with primary group `gid`, of use to our sshd only. Raises HostError, ConflictError."""
        self._publish_user(name, uid, gid, home, f"Hatchway SFTP access {name}")

    def publish_service(self, name: str, uid: int) -> None:
        """Make `name` a user and group of one of our own processes."""
        self.publish_group(name, uid)
        self._publish_user(name, uid, uid, "/nonexistent", f"Hatchway process account {name}")

    def publish_group(self, name: str, gid: int) -> None:
        """Make `name` a group without members."""
        self._write(f"{name}.group", f"{gid}.group", {"groupName": name, "gid": gid, "disposition": "system"})

    def logins(self, first: int, last: int) -> dict[str, int]:
        """Names and uids of our published users with uids from `first` to `last`."""
        users = self.users()
        return {name: uid for name, uid in users.items() if first <= uid <= last}

    def uid_of(self, name: str) -> int | None:
        """The uid of our published user `name`, None when there is none."""
        record = self._read(f"{name}.user")
        return int(record["uid"]) if record is not None and record.get(_MARK) == self._owner else None

    def users(self) -> dict[str, int]:
        """Names and uids of all our published users."""
        found = {}
        for record in self._ours(".user"):
            found[str(record["userName"])] = int(record["uid"])
        return found

    def everybodys(self) -> list[Published]:
        """The user and group records of every Hatchway, not only of this one."""
        found = []
        for suffix, name, number in ((".user", "userName", "uid"), (".group", "groupName", "gid")):
            for file, record in self._marked(suffix):
                try:
                    found.append(Published(file, str(record[name]), int(record[number]), str(record[_MARK])))
                except (KeyError, TypeError, ValueError):
                    continue  # no Hatchway wrote this
        return found

    def withdraw_user(self, name: str) -> None:
        """Remove a user of ours; nothing happens when there is none."""
        record = self._read(f"{name}.user")
        if record is not None and record.get(_MARK) == self._owner:
            self._unlink(f"{record['uid']}.user")
            self._unlink(f"{name}.user")

    def withdraw_all(self) -> None:
        """Remove every user and group of ours."""
        for name in self.users():
            self.withdraw_user(name)
        for record in self._ours(".group"):
            self._unlink(f"{record['gid']}.group")
            self._unlink(f"{record['groupName']}.group")

    def _publish_user(self, name: str, uid: int, gid: int, home: str, real_name: str) -> None:
        self._write(
            f"{name}.user",
            f"{uid}.user",
            {
                "userName": name,
                "uid": uid,
                "gid": gid,
                "realName": real_name,
                "homeDirectory": home,
                "shell": _NOLOGIN,
                "disposition": "system",
                "locked": True,
                "notAfterUSec": 1,
            },
        )

    def _write(self, name: str, link: str, record: dict[str, Any]) -> None:
        present = self._read(name)
        if present is not None and present.get(_MARK) != self._owner:
            raise ConflictError(f"{self._directory}/{name} exists and is not ours")
        content = record | {_MARK: self._owner}
        if present == content and os.path.lexists(os.path.join(self._directory, link)):
            return
        temporary = os.path.join(self._directory, f".{name}.tmp")
        try:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
            # One that was killed half way may have left it, as a file or as a link that must not be written through.
            self._unlink(f".{name}.tmp")
            with open(temporary, "x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                json.dump(content, file)
            os.replace(temporary, os.path.join(self._directory, name))
            os.symlink(name, temporary)
            os.replace(temporary, os.path.join(self._directory, link))
        except OSError as exc:
            raise HostError(f"{self._directory}/{name} cannot be written: {exc.strerror}") from exc

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            with open(os.path.join(self._directory, name), encoding="utf-8") as file:
                record = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise HostError(f"{self._directory}/{name} cannot be read: {exc}") from exc
        return record if isinstance(record, dict) else {}

    def _ours(self, suffix: str) -> list[dict[str, Any]]:
        return [record for _, record in self._marked(suffix) if record[_MARK] == self._owner]

    def _marked(self, suffix: str) -> list[tuple[str, dict[str, Any]]]:
        """(path, record) of every Hatchway's records."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        records = []
        for name in names:
            path = os.path.join(self._directory, name)
            if name.endswith(suffix) and not name.startswith(".") and not os.path.islink(path):
                try:
                    record = self._read(name)
                except HostError:
                    continue  # not ours: we write whole files only
                if record is not None and _MARK in record:
                    records.append((path, record))
        return records

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self._directory, name))
        except FileNotFoundError:
            pass
