"""Keeps grants as the applied rules and the containers' labels say, whenever the catalog has news.

One task plans and carries out at a time. What gives access to another volume than before waits for somebody to
confirm it; all else is done by itself: new instances get access, and what no rule and no label gives any more ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from hatchway import log
from hatchway.admin import rules as planning
from hatchway.admin.core import Core
from hatchway.admin.granting import Granting
from hatchway.admin.rules import Change
from hatchway.errors import HatchwayError, HostError
from hatchway.model import AccessRule, Origin
from hatchway.registry.store import Registry
from hatchway.wire.admin import ChangeKind

RETRY_S = 5.0
SYNC_EVERY = 20
"""Grants after which hostd hears of them, although there are more to be made: each new login costs a tenth of a s."""


class Reconciler:
    """For one Core."""

    def __init__(self, core: Core, granting: Granting) -> None:
        self._core = core
        self._granting = granting
        self._turn = trio.Lock()
        self._logger = log.get()

    async def run(self) -> None:
        """Follow the catalog's news for ever."""
        while True:
            await self._core.news()
            try:
                await self.reconcile()
            except HatchwayError as exc:
                self._logger.warning("rules and labels not followed, will be tried again", error=str(exc))
                await self._again()
            except Exception:
                self._logger.exception("rules and labels not followed, will be tried again")
                await self._again()

    async def _again(self) -> None:
        await trio.sleep(RETRY_S)
        self._core.tell_news()

    async def reconcile(self) -> None:
        """Do what is to be done by itself. Raises HatchwayError when some of it could not be done."""
        if self._core.host.problem is not None:
            return  # which volumes those are that the catalog shows, hostd says; there is news when it is back
        async with self._turn:
            changes = await self._plan(await self._core.db(Registry.rules))
            await self._carry_out([one for one in changes if one.kind is not ChangeKind.CONFIRM])

    async def apply(self, rules: Sequence[AccessRule], *, dry_run: bool, confirm: bool) -> list[Change]:
        """Make `rules` those that count. Gives all there was, or with `dry_run` would be, to do.

        Raises HatchwayError: HostError when hostd is away, without `dry_run` only after taking away what is to be. What
        could not be done is tried again; `confirm` is not remembered for that.
        """
        problem = self._core.host.problem
        if problem is not None and dry_run:
            raise HostError(f"what would change cannot be said now: {problem}")
        async with self._turn:
            changes = await self._plan(rules)
            if not dry_run:
                await self._core.db(lambda registry: registry.replace_rules(rules))
                self._logger.info("rules applied", rules=len(rules))
                self._core.tell_news()
                if problem is not None:
                    await self._carry_out([one for one in changes if one.kind is ChangeKind.WITHDRAW])
                    raise HostError(
                        f"the rules count from now on, but access is given only when hostd is back: {problem}"
                    )
                await self._carry_out([one for one in changes if confirm or one.kind is not ChangeKind.CONFIRM])
        return changes

    async def _plan(self, rules: Sequence[AccessRule]) -> list[Change]:
        inventory, labels = self._core.inventory, self._core.config.access.labels
        records = await self._core.db(Registry.instances)
        instances, fresh = inventory.instances(), inventory.fresh()
        # Thousands of instances and dozens of rules: not in the event loop.
        return await trio.to_thread.run_sync(planning.plan, rules, labels, records, instances, fresh)

    async def _carry_out(self, changes: Sequence[Change]) -> None:
        changes = [change for change in changes if change.kind is not ChangeKind.REFUSED]
        failures: list[HatchwayError] = []
        # First what is taken away: it must not wait for keys to be made.
        for number, change in enumerate(sorted(changes, key=lambda one: one.kind is not ChangeKind.WITHDRAW), 1):
            try:
                await self._carry_out_one(change)
            except HatchwayError as exc:
                self._logger.error(
                    "not done", what=change.kind.value, instance=str(change.key), path=change.path, error=str(exc)
                )
                failures.append(exc)
            if number % SYNC_EVERY == 0:
                await self._core.sync_logged()
        if changes:
            await self._core.sync_logged()
        if failures:
            raise failures[0]

    async def _carry_out_one(self, change: Change) -> None:
        key, path, now = change.key, change.path, self._core.now()
        match change.kind:
            case ChangeKind.GRANT | ChangeKind.CONFIRM:
                assert change.volume is not None
                follow = (path,) if change.follows else ()
                await self._granting.grant(
                    key, [(change.volume, change.mode)], origin=change.origin, by=change.by, follow=follow
                )
            case ChangeKind.FOLLOW:
                volume = change.volume
                assert volume is not None
                await self._core.db(lambda registry: registry.follow(key, volume))
            case ChangeKind.ALTER:
                await self._core.db(
                    lambda registry: registry.alter(
                        key,
                        path,
                        origin=change.origin,
                        mode=change.mode,
                        follows=change.follows,
                        by=change.by,
                        now=now,
                    )
                )
            case ChangeKind.WITHDRAW:
                await self._withdraw(change, now)
            case ChangeKind.REFUSED:
                return
        self._logger.info(change.kind.value, instance=str(key), path=path, origin=change.origin.value, by=change.by)

    async def _withdraw(self, change: Change, now: float) -> None:
        assert change.origin is not Origin.COMMAND
        record = await self._core.db(lambda registry: registry.instance(change.key))
        await self._core.db(lambda registry: registry.disable(change.key, [change.path], now, change.origin))
        if record is not None:
            self._core.must_hear(record.login)
