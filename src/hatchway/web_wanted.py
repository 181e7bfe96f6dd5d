"""Whether there are to be web pages: the condition under which the units that are only for them start.

One setting, `web.enabled`, decides, and no unit need be switched on besides: systemd asks this at each start
(ExecCondition=, systemd.service(5)). Exit status 0: yes. 1: no, and the unit is left alone, which is no failure.
255: the configuration cannot be used, which is one, and is tried again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hatchway import config as configuration
from hatchway import log
from hatchway.errors import HatchwayError


def main() -> None:
    """Entry point: `python -I -m hatchway.web_wanted --config FILE`."""
    parser = argparse.ArgumentParser(prog="hatchway-web-wanted")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        wanted = configuration.load(arguments.config).web.enabled
    except HatchwayError as exc:
        log.fatal("hatchway-web-wanted", exc, status=255)
    if not wanted:
        sys.stdout.write("not started: web.enabled is off\n")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
