"""Which sizes the volumes have that are shared: hostd is told which these are, and says what it has counted.

hostd keeps counting by itself what it was asked for last. What it counted is remembered, so that neither its restart
nor the core's makes all volumes be counted anew. While it is away no size is known, and nothing else depends on one.
"""

from __future__ import annotations

import math

import trio

from hatchway import log
from hatchway.admin.core import Core
from hatchway.errors import HatchwayError, HostError
from hatchway.model import Directory
from hatchway.registry.store import Registry
from hatchway.wire.host import SharedVolume, Usage, VolumeSize

MEASURE_EVERY_S = 30.0
"""How often hostd is asked, and at most what it counted is written down: what a crash may lose of it."""

TOGETHER_S = 1.0
"""How soon it is asked again when other volumes are shared: a thousand grants in a row are not a thousand questions."""


class Measuring:
    """For one Core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turn = trio.Lock()
        # What was counted last, and what of that the registry has; None before it was read.
        self._known: dict[Directory, Usage] = {}
        self._stored: dict[Directory, Usage] | None = None
        # When that was looked after, by trio's clock.
        self._kept_at = -math.inf
        self._problem: str | None = None
        self._logger = log.get()

    async def run(self) -> None:
        """Keep hostd told, and what it counts written down, for ever."""
        while True:
            with trio.move_on_after(MEASURE_EVERY_S):
                await self._core.sharing()
            try:
                await self.step()
            except HatchwayError as exc:
                self._logger.warning("sizes of volumes not kept", error=str(exc))
            except Exception:
                self._logger.exception("sizes of volumes not known or not kept")
            await trio.sleep(TOGETHER_S)

    async def step(self) -> None:
        """Ask hostd, and write down what is to be written down by now."""
        await self.sizes()
        if trio.current_time() - self._kept_at >= MEASURE_EVERY_S:
            self._kept_at = trio.current_time()
            await self._keep()

    async def sizes(self) -> dict[Directory, VolumeSize]:
        """The sizes of the volumes that are shared, as hostd knows them now; none when it does not say."""
        try:
            async with self._turn:
                sizes = await self._measure()
        except HatchwayError as exc:
            # That hostd is away, the link to it reports.
            if self._core.host.problem is None and self._problem is None:
                self._logger.warning("hostd does not say how large volumes are", error=str(exc))
                self._problem = str(exc)
            return {}
        self._problem = None
        return sizes

    async def _measure(self) -> dict[Directory, VolumeSize]:
        if self._core.host.problem is not None:
            raise HostError(self._core.host.problem)
        if self._stored is None:
            self._stored = await self._core.db(Registry.sizes)
            self._known = dict(self._stored)
        # Before the first look nobody knows which they are: hostd would forget what it has counted.
        shared = self._core.shared
        if shared is None:
            return {}
        asked = tuple(
            SharedVolume(source=one.source, birth=one.birth, limits=limits, known=self._known.get(one))
            for one, limits in shared.items()
        )
        answer = await self._core.host.measure(asked)
        if len(answer.sizes) != len(asked):
            raise HostError(f"hostd gave {len(answer.sizes)} sizes of {len(asked)} volumes")
        sizes = dict(zip(shared, answer.sizes, strict=True))
        self._known.update({one: size.counted for one, size in sizes.items() if size.counted is not None})
        return sizes

    async def _keep(self) -> None:
        """Write down what was counted, of volumes there are grants for; forget it of others."""
        granted = self._core.limits
        if self._stored is None or granted is None:
            return
        # An instance may be gone for a moment, or its access be suspended: as long as there is a grant, it may be back.
        self._known = {one: usage for one, usage in self._known.items() if one in granted}
        known = dict(self._known)
        if known != self._stored:
            await self._core.db(lambda registry: registry.keep_sizes(known, granted.keys()))
            self._stored = known
