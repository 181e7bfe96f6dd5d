"""A web process that was taken over fills no log with what it asks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from tests.unit.core.test_share_links import make, opened, shared
from tests.unit.core.test_web_socket import listening

from hatchway import log
from hatchway.errors import SignedOutError
from hatchway.wire import frames, sparing
from hatchway.wire.entry import Password, ShowPassword
from hatchway.wire.service import Peer, Request, Table, serve
from hatchway.wire.sparing import EVERY_S, LINES, Sparing
from hatchway.wire.web import Call, Viewer, WhoIs


async def test_of_many_lines_the_first_are_said_and_how_many_more(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as logs:
        logger = Sparing(log.get(socket="web"))
        for number in range(LINES + 5):
            logger.warning("bad frame", number=number)
            logger.info("request failed") if number < LINES else None
        logger.error("something else")
        assert Counter(line["event"] for line in logs) == {
            "bad frame": LINES,
            "request failed": LINES,
            "something else": 1,
        }
        await trio.sleep(EVERY_S + 1)
        assert [line for line in logs if "more" in line] == [
            {
                "event": "bad frame, again and again",
                "log_level": "warning",
                "socket": "web",
                "more": 5,
                "seconds": EVERY_S,
            }
        ]
        logger.warning("bad frame", number=-1)
        assert logs[-1]["number"] == -1, "from then on they are said again"
        await trio.sleep(EVERY_S + 1)
    assert sum("more" in line for line in logs) == 1


def test_what_was_counted_is_said_when_it_ends_before() -> None:
    async def main() -> None:
        logger = Sparing(log.get())
        for _ in range(LINES + 2):
            logger.info("request failed")

    with capture_logs() as logs:
        trio.run(main)
    assert logs[-1]["more"] == 2


async def test_a_socket_of_others_has_few_lines_of_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "LINES", 3)

    async def failing(_request: WhoIs, _peer: Peer) -> Viewer:
        raise SignedOutError("you are signed out")

    async def crashing(_request: Call, _peer: Peer) -> Viewer:
        raise ValueError

    path = str(tmp_path / "web.sock")
    table: Table = {WhoIs: Request((0,), failing), Call: Request((0,), crashing), Password: Request((1,), crashing)}
    async with trio.open_nursery() as nursery:

        async def serving() -> None:
            await serve("web", listener, table, connections_max=10, sparing=True)

        listener = await listening(path)
        nursery.start_soon(serving)
        with capture_logs() as logs:
            for sent in (
                frames.encode(WhoIs("x")),
                frames.encode(Call(token="", address="", request=b"\xc0")),  # type: ignore[arg-type] # as it is sent
                frames.encode(ShowPassword("x")),
                b"\xff\xff\xff\xff",
            ):
                for _ in range(10):
                    async with await trio.open_unix_socket(path) as stream:
                        await stream.send_all(sent)
                        await stream.send_eof()
                        while await stream.receive_some(4096):
                            pass
        nursery.cancel_scope.cancel()
    said = Counter((line["event"], line["log_level"]) for line in logs)
    assert said[("request failed", "info")] + said[("request failed", "error")] <= 3
    assert said[("bad frame", "warning")] <= 3
    assert sum(said.values()) <= 9


async def test_who_has_a_share_link_fills_no_log(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        web.token = (await opened(web, (await make(web)).token)).token
        with capture_logs() as logs:
            for _ in range(LINES + 10):
                await web.call(ShowPassword("shop/web/1"), Password)
            assert sum(line["event"] == "password shown" for line in logs) == LINES
            for _ in range(LINES + 10):
                # What operators do is said each time.
                await web.stage.do(ShowPassword("shop/web/1"))
        assert sum(line["event"] == "password shown" for line in logs) == 2 * LINES + 10
