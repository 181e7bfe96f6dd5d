"""What an operator does on these pages about what stands in a login's way, instead of giving the command. Pure."""

from __future__ import annotations

import msgspec

from hatchway.web.whose import Whose
from hatchway.wire.entry import Hindrance


class Mend(msgspec.Struct, frozen=True):
    """A link to `path`, or with `posts` a form that does it, called `text`."""

    text: str
    path: str
    posts: bool = False


def mend(hindrance: Hindrance, whose: Whose) -> Mend | None:
    """What to press in place of the command that mends it; None where the pages have nothing for that."""
    page, words = whose.page, hindrance.mend.split()
    if "--size" in words or "--files" in words:
        return None
    match words[1:]:
        case ["unlock", _]:
            return Mend("Unlock", f"{page}/unlock", posts=True)
        case ["person", "grant", *_, "VOLUME"]:
            return Mend("Share something", f"{page}/share")
        case ["person", "grant", *_] | ["enable" | "confirm", *_]:
            return Mend("To its volumes", f"{page}#volumes")
        case ["access", *_]:
            return Mend("Who may enter", f"{page}#conditions")
        case ["key", "list", *_]:
            return Mend("To its keys", f"{page}#keys")
        case ["password", "reset", _]:
            return Mend("Password", f"{page}/password")
        case _:
            return None
