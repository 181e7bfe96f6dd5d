"""The process `hatchway-catalog`: follows the configured sources and feeds the core. Listens on nothing.

Whoever starts it sets its user, which is in the engine's group and never root, and no_new_privs.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import trio

from hatchway import config as configuration
from hatchway import log
from hatchway.catalog.feeder import Feeder
from hatchway.catalog.static_source import StaticSource
from hatchway.config import Config
from hatchway.errors import HatchwayError, RefusedError
from hatchway.kernel import privileges
from hatchway.wire import notify


async def run(config: Config, *, now: Callable[[], float] = time.time) -> None:
    """Follow the sources and feed the core until cancelled. `now` gives Unix time in seconds."""
    feeder = Feeder(config.catalog_socket, now=now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feeder.run)
        if config.engine.enabled:
            # Here, not above: the engine's library is the most of what there is to load.
            from hatchway.catalog.docker_source import DockerSource

            nursery.start_soon(DockerSource(config.engine, feeder, now=now).follow)
        if config.static.file:
            nursery.start_soon(StaticSource(config, feeder, now=now).follow)


async def _until_told(config: Config) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, config)
            nursery.start_soon(notify.stay_well)
            notify.ready()
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


def main() -> None:
    """Entry point: `python -I -m hatchway.catalog.main --config FILE`. Exit status 0 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="hatchway-catalog")
    parser.add_argument("--config", type=Path, help="the configuration file")
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("catalog", config.log.level)
        if 0 in os.getresuid():
            raise RefusedError(
                "hatchway-catalog must not run as root: it holds the engine's socket and needs nothing else. "
                f"Start it as {config.ids.catalog_user}, with the engine's group"
            )
        privileges.no_new_privileges()
        # Whoever has our uid, in a container for example, could otherwise become us, who may use the engine's socket.
        privileges.not_dumpable()
        trio.run(_until_told, config)
    except HatchwayError as exc:
        log.fatal("hatchway-catalog", exc)


if __name__ == "__main__":
    main()
