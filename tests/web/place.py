"""The web process in a thread of the tests, in front of a core that is made up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import trio
from tests.web.core import FakeCore, serving

from hatchway.config import Config, Paths, Web
from hatchway.web import main


@contextlib.contextmanager
def web(core: FakeCore, directory: Path, settings: Web) -> Iterator[str]:
    """Both, until the context ends. Gives the URL."""
    path = directory / "web.sock"
    with serving(core, path):
        paths = Paths(run_dir=str(directory), state_dir=str(directory / "state"))
        config = Config(paths=paths, web=settings)
        urls: list[str] = []
        ready = threading.Event()
        stop: list[Callable[[], None]] = []

        def started(binds: tuple[str, ...]) -> None:
            urls.extend(binds)
            ready.set()

        async def run() -> None:
            token, told = trio.lowlevel.current_trio_token(), trio.Event()
            stop.append(lambda: token.run_sync_soon(told.set))
            await main.run(config, told, started=started)

        thread = threading.Thread(target=trio.run, args=(run,), name="web")
        thread.start()
        assert ready.wait(20)
        try:
            yield urls[0]
        finally:
            stop[0]()
            thread.join(15)
            assert not thread.is_alive()
