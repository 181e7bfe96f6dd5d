"""The computer of somebody who connects: a home directory, in which programs find what they were given."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PATIENCE_S = 60


class Computer:
    """`home` is made by the caller, and so removed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ssh = home / ".ssh"
        self.ssh.mkdir(0o700)
        self.known_hosts = self.ssh / "known_hosts"
        # PuTTY's programs ask the user database where they are at home, not the environment.
        self.env = {**CLIENT, "HOME": str(home), "PUTTYDIR": str(home / ".putty")}

    def run(
        self, *command: str | Path, given: str = "", check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that has no terminal, in the home directory."""
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            env={**self.env, **(env or {})},
            cwd=self.home,
            start_new_session=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done
