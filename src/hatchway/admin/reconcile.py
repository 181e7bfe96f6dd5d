"""Keeps grants as the applied rules and the containers' labels say, whenever the catalog has news.

One task plans and carries out at a time. What gives access to another volume than before waits for somebody to
confirm it; all else is done by itself: new instances get access, and what no rule and no label gives any more ends.
Order: what takes away, then hostd hears of it, then what gives, so many at a time: a new login costs its keys' making,
and nobody who wants to take something away shall wait for a thousand of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from hatchway import log
from hatchway.admin import rules as planning
from hatchway.admin import sentences
from hatchway.admin.core import Core
from hatchway.admin.granting import Granting
from hatchway.admin.rules import Change
from hatchway.errors import HatchwayError, HostError
from hatchway.model import AccessRule, EventKind, InstanceKey, Login, NewLimits
from hatchway.registry.records import AlteredGrant, FollowedGrant, GrantName, NewEvent
from hatchway.registry.store import Registry
from hatchway.wire.admin import ChangeKind

RETRY_MIN_S = 5.0
RETRY_MAX_S = 300.0
"""How soon what failed is tried again: the first and the longest time."""

GRANTS_AT_ONCE = 20
EDITS_AT_ONCE = 100
"""Changes of one transaction: logins wait for the registry meanwhile."""


@dataclass(slots=True)
class Outcome:
    """What was, or would be, to do. `pending` grants are still being made. `problems` are sentences for people."""

    changes: list[Change]
    idle: tuple[str, ...] = ()
    pending: int = 0
    problems: list[str] = field(default_factory=list)


class Reconciler:
    """For one Core."""

    def __init__(self, core: Core, granting: Granting) -> None:
        self._core = core
        self._granting = granting
        self._turn = trio.Lock()
        # Instances that could not be given access, and when (trio's clock, seconds) that is tried again.
        self._later: dict[InstanceKey, float] = {}
        self._held: dict[tuple[InstanceKey, str], str] = {}
        self._logger = log.get()

    def held_back(self, key: InstanceKey) -> dict[str, str]:
        """What rules and labels would give an instance but for a change of hands: path to why it waits."""
        return {path: why for (of, path), why in self._held.items() if of == key}

    async def run(self) -> None:
        """Follow the catalog's news for ever."""
        delay_s = 0.0
        while True:
            with trio.move_on_after(delay_s or math.inf):
                await self._core.news()
            try:
                problems = (await self.reconcile()).problems
            except Exception:
                self._logger.exception("rules and labels not followed, will be tried again")
                delay_s = min(max(RETRY_MIN_S, 2 * delay_s), RETRY_MAX_S)
                continue
            for problem in problems:
                self._logger.error("rules and labels not followed, will be tried again", error=problem)
            delay_s = min(max(RETRY_MIN_S, 2 * delay_s), RETRY_MAX_S) if problems or self._later else 0.0

    async def reconcile(self) -> Outcome:
        """Do what is to be done by itself. Raises HatchwayError when the registry cannot be used."""
        if self._core.host.problem is not None:
            return Outcome([])  # which volumes those are, hostd says; there is news when it is back
        async with self._turn:
            outcome = await self._plan(await self._core.db(Registry.rules))
            await self._carry_out(outcome)
        return outcome

    async def apply(self, rules: Sequence[AccessRule], *, dry_run: bool) -> Outcome:
        """Make `rules` those that count. What could not be done is tried again.

        Raises HostError when hostd is away and `dry_run` asks what would change.
        """
        problem = self._core.host.problem
        if problem is not None and dry_run:
            raise HostError(f"what would change cannot be said now: {problem}")
        async with self._turn:
            outcome = await self._plan(rules)
            if dry_run:
                return outcome
            await self._core.db(lambda registry: registry.replace_rules(rules))
            self._logger.info("rules applied", rules=len(rules))
            self._later.clear()
            self._core.tell_news()
            await self._carry_out(outcome, only_take_away=problem is not None)
        if problem is not None:
            outcome.problems.append(f"the rules count now, but access is given only when hostd is back: {problem}")
        return outcome

    async def take_away(self) -> None:
        """Take away what the applied rules and the configuration do not give any more, before anybody can enter.

        The core may have been killed between storing rules and this, or `access.labels` changed while it did not run.
        """
        async with self._turn:
            outcome = await self._plan(await self._core.db(Registry.rules))
            await self._edit([change for change in outcome.changes if change.takes_away])

    async def confirm(self, key: InstanceKey, paths: Collection[str] | None) -> list[Change]:
        """Give what rules and labels would give the instance `key` but for a change of hands, at `paths` (None: all).

        Raises HatchwayError when that cannot be done; some of it may be.
        """
        async with self._turn:
            outcome = await self._plan(await self._core.db(Registry.rules))
            waiting = [
                change
                for change in outcome.changes
                if change.kind is ChangeKind.CONFIRM and change.key == key and (paths is None or change.path in paths)
            ]
            for change in waiting:
                await self._grant(change)
                self._held.pop((change.key, change.path), None)
        return waiting

    async def _plan(self, rules: Sequence[AccessRule]) -> Outcome:
        inventory, labels = self._core.inventory, self._core.config.access.labels
        records = await self._core.db(Registry.instances)
        instances, fresh = inventory.instances(), inventory.fresh()

        def think() -> Outcome:
            changes = planning.plan(rules, labels, records, instances, fresh)
            return Outcome(changes, planning.idle(rules, labels, instances))

        # Thousands of instances and dozens of rules: not in the event loop.
        return await trio.to_thread.run_sync(think)

    async def _carry_out(self, outcome: Outcome, *, only_take_away: bool = False) -> None:
        taking = [change for change in outcome.changes if change.takes_away]
        if taking:
            touched = await self._edit(taking)
            for login in touched:
                self._core.must_hear(login)
            await self._tell_host(touched, outcome)
        self._held = {
            (one.key, one.path): one.reason
            for one in outcome.changes
            if one.kind is ChangeKind.CONFIRM and one.before is None
        }
        if only_take_away:
            return
        edits = (ChangeKind.ALTER, ChangeKind.FOLLOW)
        touched = await self._edit([one for one in outcome.changes if one.kind in edits and not one.takes_away])
        now = trio.current_time()
        grants = [one for one in outcome.changes if one.kind is ChangeKind.GRANT]
        wanted = {change.key for change in grants}
        self._later = {key: until for key, until in self._later.items() if key in wanted}
        giving = [change for change in grants if self._later.get(change.key, now) <= now]
        for change in giving[:GRANTS_AT_ONCE]:
            try:
                touched.add(await self._grant(change))
            except HatchwayError as exc:
                if change.key not in self._later:
                    self._record(change, exc)
                self._later[change.key] = trio.current_time() + RETRY_MAX_S
                outcome.problems.append(f"{change.key} {change.path}: {exc}")
            else:
                self._later.pop(change.key, None)
        if touched:
            await self._tell_host(touched, outcome)
        outcome.pending = max(0, len(giving) - GRANTS_AT_ONCE)
        if outcome.pending or any(one.kind is ChangeKind.FOLLOW for one in outcome.changes):
            # What was held back because hands had changed, as it seemed, may be given now.
            self._core.tell_news()

    async def _tell_host(self, touched: set[Login], outcome: Outcome) -> None:
        try:
            errors = await self._core.sync()
        except HatchwayError as exc:
            outcome.problems.append(f"the host was not told, and will be: {exc}")
            return
        outcome.problems += [
            f"the host did not take what {login} may see, which is tried again: {exc}" for login, exc in errors.items()
        ]
        outcome.problems += [
            f"nobody can enter as {login}: {self._core.unpublished[login]}"
            for login in sorted(touched & self._core.unpublished.keys())
        ]

    async def _edit(self, changes: Sequence[Change]) -> set[Login]:
        """Carry out what needs no new login. Gives the logins concerned."""
        for start in range(0, len(changes), EDITS_AT_ONCE):
            await self._core.db(self._edits(changes[start : start + EDITS_AT_ONCE]))
        for one in changes:
            self._logger.info(
                one.kind.value, instance=str(one.key), path=one.path, origin=one.origin.value, mode=one.mode, by=one.by
            )
            self._record(one)
        if not changes:
            return set()
        keys = {change.key for change in changes}
        return {record.login for record in await self._core.db(Registry.instances) if record.key in keys}

    def _edits(self, changes: Sequence[Change]) -> Callable[[Registry], None]:
        withdraw = [GrantName(one.key, one.path, one.origin) for one in changes if one.kind is ChangeKind.WITHDRAW]
        alter = [
            AlteredGrant(
                one.key,
                one.path,
                one.origin,
                one.mode,
                one.follows,
                one.by,
                ownership=one.ownership,
                owner_ids=one.owner_ids,
                limits=one.limits,
            )
            for one in changes
            if one.kind is ChangeKind.ALTER
        ]
        follow = [
            FollowedGrant(one.key, one.origin, one.volume, one.mode)
            for one in changes
            if one.kind is ChangeKind.FOLLOW and one.volume is not None
        ]
        now = self._core.now()
        return lambda registry: registry.reconcile(withdraw=withdraw, alter=alter, follow=follow, now=now)

    async def _grant(self, change: Change) -> Login:
        assert change.volume is not None
        record, _password = await self._granting.grant(
            change.key,
            [(change.volume, change.mode)],
            origin=change.origin,
            by=change.by,
            follow=(change.path,) if change.follows else (),
            ownership=change.ownership,
            limits=NewLimits.exactly(change.limits),
        )
        self._record(change)
        return record.login

    def _record(self, change: Change, problem: HatchwayError | None = None) -> None:
        if (what := sentences.followed(change)) is None:
            return
        done, told = problem is None, what if problem is None else f"{what}: {problem}"
        self._core.journal.record(
            NewEvent(self._core.now(), EventKind.AUTO, told, str(change.key), who=change.by, done=done)
        )
