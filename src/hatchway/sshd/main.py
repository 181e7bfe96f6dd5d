"""Writes what the dedicated sshd reads, before its unit starts or reloads it. Needs root; starts nothing.

The PAM service is the package's file, which the operator may have changed: it is looked at, not written.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hatchway import config as configuration
from hatchway import log
from hatchway.errors import HatchwayError
from hatchway.sshd import install


def main() -> None:
    """Entry point: `python -I -m hatchway.sshd.main --config FILE`. Exit status 0 when sshd can be started."""
    parser = argparse.ArgumentParser(prog="hatchway-sshd-files")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("sshd-files", config.log.level)
        os.umask(0o022)
        prepared = install.prepare(config, write_pam=False)
        for key in prepared.host_keys:
            log.get().debug("host key", type=key.algorithm, fingerprint=key.fingerprint)
    except HatchwayError as exc:
        log.fatal("hatchway-sshd-files", exc)


if __name__ == "__main__":
    main()
