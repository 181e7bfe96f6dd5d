"""What to do, in the words of how Hatchway is run here: by the units of Debian's package, or by `hatchway run`.

Each finding takes its fix from here where the two differ.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from hatchway.config import PACKAGE_PREFIX

_FROM_A_FILE = "(where no repository has it, the file ./hatchway_*.deb in place of the name)"


@dataclass(frozen=True, slots=True)
class Advice:
    """`packaged`: the package's units run Hatchway."""

    packaged: bool

    @property
    def start(self) -> str:
        """Start what does not run."""
        if self.packaged:
            return "start it: systemctl start hatchway; if it does not stay, see journalctl -b -u 'hatchway*'"
        return "start it: hatchway run"

    def again(self, unit: str = "hatchway", why: str = "") -> str:
        """Start what runs once more: a command that ends no session where there are units.

        `why` says what `hatchway run` does then.
        """
        if self.packaged:
            return f"systemctl restart {unit}"
        return "start 'hatchway run' again" + (f": {why}" if why else "")

    def log(self, unit: str = "hatchway*") -> str:
        """Look into the log of the process that is the unit's."""
        if self.packaged:
            return f"see journalctl -b -u '{unit}'" if "*" in unit else f"see journalctl -b -u {unit}"
        return "see the log of 'hatchway run'"

    def reinstall(self, otherwise: str) -> str:
        """Put the package's files back as they were; without a package do what `otherwise` says."""
        return f"apt install --reinstall hatchway {_FROM_A_FILE}" if self.packaged else otherwise

    def missing_conffile(self) -> str:
        """Put configuration files of the package back that are not there any more, which apt does only if told to."""
        return f"apt -o Dpkg::Options::=--force-confmiss install --reinstall hatchway {_FROM_A_FILE}"

    def changed_conffile(self, path: str) -> str:
        """Put one back that was changed. (--force-confask would ask about each changed one, hatchway.toml first.)"""
        return f"rm {path}, then {self.missing_conffile()}"


RUN, PACKAGE = Advice(False), Advice(True)

HERE = PACKAGE if sys.prefix == PACKAGE_PREFIX else RUN
"""The one that fits this process."""
