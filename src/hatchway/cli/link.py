"""`hatchway link`: share links, which show whoever opens them how to connect to an instance."""

from __future__ import annotations

import time

import click
from rich.text import Text

from hatchway.cli import complete, given, moments
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal
from hatchway.cli.text import count, safe
from hatchway.errors import UsageError
from hatchway.wire.links import (
    LIFE_MAX_S,
    LinkMade,
    LinkRevoked,
    ListLinks,
    MakeLink,
    RevokeLink,
    ShareLink,
    ShareLinks,
)

LIFE = "7d"
"""For how long a link is valid when nothing is said."""


@click.group()
def link() -> None:
    """Share links: how to connect to an instance, for somebody without an account.

    Whoever opens one in a browser sees the instance's connection page: its login with key and password. Send a link
    only to whom you would send these, and the passphrase, if it has one, on another way.
    """


@link.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option(
    "--expires",
    metavar="WHEN",
    default=LIFE,
    show_default=True,
    help=f"Until when it opens, as of 'hatchway access set', at most {LIFE_MAX_S / 86400:.0f} days.",
)
@click.option(
    "--uses", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="How often it opens."
)
@click.option(
    "--passphrase",
    "asks",
    is_flag=True,
    help="Have it ask for a passphrase, which you are asked for twice, without echo; where there is no terminal it is "
    "a line of standard input.",
)
@click.option("--note", metavar="TEXT", default="", help="For whom it is, for operators to read.")
@json_option
@click.pass_obj
def add(app: App, instance: str, expires: str, uses: int, asks: bool, note: str) -> None:
    """Make a link. It is shown this once."""
    expires_at = moments.expiry(expires, time.time())
    if expires_at is None:
        raise UsageError("--expires 'never': a link must expire")
    passphrase = given.secret("passphrase", f"the link to {instance}", from_stdin=False, twice=True) if asks else None
    request = MakeLink(instance=instance, expires_at=expires_at, uses=uses, passphrase=passphrase, note=note)
    made = app.ask(request, LinkMade)
    app.emit(made, lambda out: _print_made(out, made))


@link.command("ls")
@click.argument("instance", required=False, shell_complete=complete.instances)
@json_option
@click.pass_obj
def ls(app: App, instance: str | None) -> None:
    """List links, of all instances or one. What opens them is not kept, and cannot be shown."""
    found = app.ask(ListLinks(instance=instance), ShareLinks)
    app.emit(found, lambda out: _print_links(out, found))


@link.command()
@click.argument("link", metavar="LINK")
@json_option
@click.pass_obj
def revoke(app: App, link: str) -> None:
    """Take a link back, called as 'hatchway link ls' says.

    Whoever has its page open is signed out. What they have saved of it, key and password, goes on to be valid:
    'hatchway key renew' and 'hatchway password reset' end that.
    """
    gone = app.ask(RevokeLink(link), LinkRevoked)
    app.emit(gone, lambda out: _print_revoked(out, gone))


def _print_made(out: Terminal, made: LinkMade) -> None:
    out.heading("Link, shown this once")
    out.out(Text.assemble("  ", safe(made.url or f"/link#{made.token}")))
    if not made.url:
        out.out(
            Text(
                "  It begins with how the web pages are called from outside, which is not known: set web.url.",
                style="yellow",
            )
        )
    out.out()
    out.out(_line(made.link))


def _print_links(out: Terminal, found: ShareLinks) -> None:
    for one in found.links:
        out.out(_line(one))
    if not found.links:
        out.out(Text("No links. 'hatchway link add INSTANCE' makes one.", style="dim"))


def _print_revoked(out: Terminal, gone: LinkRevoked) -> None:
    out.out(Text.assemble(safe(gone.link.name, "bold"), "  taken back: it opens nothing any more."))
    if gone.link.uses:
        out.out(
            Text.assemble(
                f"It was opened {count(gone.link.uses, 'time')}. Key and password of ",
                safe(gone.link.login),
                " go on to be valid: 'hatchway key renew' and 'hatchway password reset' end that.",
            )
        )


def _line(one: ShareLink) -> Text:
    parts = [safe(one.name, "bold"), safe(str(one.key))]
    parts.append(Text(f"opened {one.uses} of {count(one.uses_max, 'time')}"))
    if one.passphrase:
        parts.append(Text("with a passphrase"))
    parts.append(Text(one.over, "yellow") if one.over else Text(f"until {moments.told(one.expires_at, time.time())}"))
    if one.note:
        parts.append(safe(one.note, "dim"))
    return Text("  ").join(parts)
