"""Under which conditions a login may be used, in words."""

from __future__ import annotations

import time

from rich.text import Text

from hatchway.cli import moments
from hatchway.cli.output import Terminal
from hatchway.cli.text import count, safe
from hatchway.localtime import local
from hatchway.wire.entry import ConditionsStatus

LABEL_WIDTH = 14


def print_conditions(out: Terminal, status: ConditionsStatus, *, only_said: bool = False) -> None:
    """Each condition, a field of its own; with `only_said` none that is as for every login."""
    now = time.time()
    if status.locked_at is not None:
        why = f": {status.locked_why}" if status.locked_why else ""
        _sentence(out, "Locked", f"since {local(status.locked_at)}{why}", "yellow")
    elif not only_said:
        out.field("Locked", "no")
    if status.allowed_from or not only_said:
        _sentence(out, "From", ", ".join(status.allowed_from) or "anywhere")
    if status.expires_at is not None:
        expired = status.expires_at <= now
        out.field(
            "Expired" if expired else "Expires",
            Text(moments.told(status.expires_at, now), "yellow" if expired else ""),
        )
    elif not only_said:
        out.field("Expires", "never")
    if status.sessions_max is not None:
        out.field("At most", count(status.sessions_max, "session"))
    elif not only_said:
        out.field("At most", f"{count(status.sessions_default, 'session')}, as configured")


def login_line(status: ConditionsStatus, done: str) -> Text:
    """The login, and what was done."""
    return Text.assemble(safe(status.login, "bold"), f"  {done}" if done else "")


def _sentence(out: Terminal, label: str, text: str, style: str = "") -> None:
    """As Terminal.field, in as many lines as it takes."""
    out.sentence(text, style, label=Text.assemble("  ", Text(label.ljust(LABEL_WIDTH), style="dim")))
