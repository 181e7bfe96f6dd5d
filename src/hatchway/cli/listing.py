"""`hatchway ls`: environment, container, instance, volumes, and the access to each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import click
from msgspec import structs
from rich.text import Text
from rich.tree import Tree

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.sizes import limits_text, size_remarks
from hatchway.cli.status import source_lines
from hatchway.cli.text import count, safe
from hatchway.errors import NotFoundError
from hatchway.model import IdPair, InstanceState, Origin, Ownership, Owning
from hatchway.wire.admin import Access, GrantStatus, InstanceStatus, Listing, ListInstances, VolumeStatus

ACCESS_STYLE = {
    Access.OFF: "dim",
    Access.READ_ONLY: "cyan",
    Access.READ_WRITE: "green",
    Access.SUSPENDED: "yellow",
}


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.instances)
@json_option
@click.pass_obj
def ls(app: App, names: tuple[str, ...]) -> None:
    """List instances, volumes and access.

    NAME is an environment (shop), a container in it (shop/web), or an instance: its key, login or name. Without one all
    are listed.
    """
    answer = app.ask(ListInstances(), Listing)
    if names:
        answer = structs.replace(answer, instances=_named(answer.instances, names))
    app.emit(answer, lambda out: _print(out, answer))


def _named(instances: Sequence[InstanceStatus], names: Sequence[str]) -> tuple[InstanceStatus, ...]:
    """Those that are called so, in their order. Raises NotFoundError when one name is nobody's."""
    called = [(one, _names(one)) for one in instances]
    for name in names:
        if not any(name in its for _, its in called):
            raise NotFoundError(f"there is no environment, container or instance {name!r}; 'hatchway ls' lists all")
    return tuple(one for one, its in called if its & set(names))


def _names(instance: InstanceStatus) -> set[str]:
    key = instance.key
    named = {key.environment, f"{key.environment}/{key.container}", str(key), instance.runtime_name, instance.login}
    return {name for name in named if name}


def _print(out: Terminal, answer: Listing) -> None:
    if not answer.instances:
        out.out(Text("No instances.", style="bold"))
    for environment, instances in itertools.groupby(answer.instances, lambda item: item.key.environment):
        tree = Tree(safe(environment, "bold"), guide_style="dim")
        for container, replicas in itertools.groupby(instances, lambda item: item.key.container):
            branch = tree.add(safe(container))
            for instance in replicas:
                _add(branch, instance)
        out.out(tree)
        out.out()
    for line in source_lines(answer.sources):
        out.out(line)


def _add(branch: Tree, instance: InstanceStatus) -> None:
    _add_volumes(branch.add(instance_line(instance)), instance)


def _add_volumes(node: Tree, instance: InstanceStatus) -> None:
    lines = columns([volume_cells(volume) for volume in instance.volumes])
    for volume, line in zip(instance.volumes, lines, strict=True):
        leaf = node.add(line)
        for remark in remarks(volume):
            leaf.add(remark)
    if not instance.volumes:
        node.add(Text("no volumes", style="dim"))


def instance_line(instance: InstanceStatus) -> Text:
    """Key, state, login, whether nobody is let in by it, number of sessions."""
    parts = [safe(str(instance.key), "bold"), _state(instance)]
    if instance.login is not None:
        parts.append(Text.assemble(("login ", "dim"), safe(instance.login)))
    if instance.locked:
        parts.append(Text("locked", "yellow"))
    if instance.expired:
        parts.append(Text("expired", "yellow"))
    if instance.sessions:
        parts.append(Text(count(instance.sessions, "session")))
    return Text("  ").join(parts)


def _state(instance: InstanceStatus) -> Text:
    if not instance.present:
        return Text("not seen" if any(map(_unheard_of, instance.volumes)) else "gone", style="yellow")
    good = instance.state in (InstanceState.RUNNING, InstanceState.STATIC)
    return safe(instance.state.value, "green" if good else "dim")


def _unheard_of(volume: VolumeStatus) -> bool:
    """Whether nothing was heard yet of the engine whose volume it is, or the file: then what was known last counts."""
    return not volume.present and volume.access.is_on


def volume_cells(volume: VolumeStatus) -> list[Text]:
    """Access, path and name: the cells of a volume's line."""
    return [
        Text(volume.access.value, style=ACCESS_STYLE[volume.access]),
        safe(volume.path),
        safe(volume.name, "dim"),
    ]


def remarks(volume: VolumeStatus, *, origins: bool = False) -> list[Text]:
    """What else there is to know about a volume, each a line of its own; with `origins` where each grant comes from."""
    found: list[Text] = []
    if volume.session_path is not None and volume.session_path != volume.path:
        found.append(Text.assemble(("in a session at ", "dim"), safe(volume.session_path)))
    found += size_remarks(volume)
    if (owned := ownership_text(volume.ownership, volume.owner_ids)) is not None:
        found.append(Text(owned, style="dim"))
    plain = all(grant.origin is Origin.COMMAND and not grant.follows for grant in volume.grants)
    if origins or not plain:
        found += [origin_remark(grant) for grant in volume.grants]
    if volume.people:
        found.append(Text.assemble(("people: ", "dim"), safe(", ".join(volume.people), "dim")))
    if volume.held_back is not None:
        found.append(Text.assemble(("waits for 'hatchway confirm': ", "yellow"), safe(volume.held_back, "yellow")))
    if _unheard_of(volume):
        found.append(
            Text(
                "not heard of since Hatchway was started: access is to the volume as it was known last", style="yellow"
            )
        )
    elif not volume.present:
        found.append(Text("there is no volume there now", style="yellow"))
    if volume.access is Access.SUSPENDED and volume.present and volume.refusal is None:
        found.append(
            Text(
                "another volume stands here than the one access was given to; 'hatchway confirm' gives it",
                style="yellow",
            )
        )
    if volume.refusal is not None:
        found.append(Text.assemble(("cannot be shared: ", "yellow"), safe(volume.refusal, "yellow")))
    elif volume.read_only:
        found.append(Text("read-only in the container", style="dim"))
    return found


def origin_remark(grant: GrantStatus) -> Text:
    """Where a grant comes from, and what of it is not plain from the volume's line."""
    by = safe(grant.granted_by)
    text = Text.assemble("given by command, ", by) if grant.origin is Origin.COMMAND else Text.assemble("given by ", by)
    text.append(f": {grant.mode.value}")
    if (limit := limits_text(grant.limits)) is not None:
        text.append(f", {limit}")
    if grant.follows:
        text.append(", stays on when the container gets a new anonymous volume")
    if not grant.in_force:
        text.append(", suspended")
    text.stylize("dim")
    return text


def ownership_text(ownership: Ownership, ids: IdPair | None = None) -> str | None:
    """What of owners and modes is not as usual, None when all is. `ids` is whom the owner means on the host."""
    owner, said = ownership.owner, []
    if owner == Owning.REAL:
        said.append("owners and modes are as on disk")
    elif owner is not None and owner != Owning.INHERIT:
        whose = "the container's user" if owner == Owning.CONTAINER else owner
        said.append(f"new files belong to {whose}" + (f" ({ids} on the host)" if ids and str(ids) != owner else ""))
    if ownership.umask is not None:
        said.append(f"umask {ownership.umask:03o}")
    return ", ".join(said) or None


def print_instance(out: Terminal, instance: InstanceStatus) -> None:
    """An instance with its volumes, as `ls` shows it."""
    tree = Tree(instance_line(instance), guide_style="dim")
    _add_volumes(tree, instance)
    out.out(tree)
