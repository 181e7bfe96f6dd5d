"""Templates and static files. Whatever a template prints is escaped twice over: for HTML, and for people.

Names of containers and volumes, log lines and comments are anybody's text. Characters that are not plainly visible are
shown as escapes (printable.escaped), without a template's doing anything about it; `exact` is for what is copied or
imported and must arrive as it is.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from hatchway.printable import escaped, harmless
from hatchway.web import mending, moments, paths, wording

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


class Static:
    """The static files, each under a name that changes with what is in it."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}
        self._names: dict[str, str] = {}
        for file in (resources.files("hatchway.web") / "static").iterdir():
            stem, _, kind = file.name.rpartition(".")
            if kind not in _TYPES:
                continue
            body = file.read_bytes()
            served = f"{stem}.{hashlib.sha256(body).hexdigest()[:12]}.{kind}"
            self._files[served] = (body, _TYPES[kind])
            self._names[file.name] = served

    def url(self, name: str) -> str:
        """Where the file `name` is."""
        return f"/static/{self._names[name]}"

    async def serve(self, request: Request) -> Response:
        """One file, to be kept for ever: another one has another name."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response("no such file", 404, media_type="text/plain")
        return Response(found[0], media_type=found[1], headers={"cache-control": FOREVER})


def _shown(value: object) -> object:
    # Keys of instances are no text, but print as what is in them.
    return value if isinstance(value, Markup | int | float) else escaped(str(value))


def _exact(text: str) -> Markup:
    return escape(text)


def environment(static: Static) -> jinja2.Environment:
    """The templates. A name that is not given is an error, not an empty place."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("hatchway.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Any] = {
        "exact": _exact,
        "coded": paths.coded,
        "amount": wording.amount,
        "moment": wording.moment,
        "machine_moment": wording.machine_moment,
        "span": wording.span,
        "to_form": moments.to_form,
        "share": wording.share,
    }
    found.filters |= filters
    # What cannot be seen must not be copied either: it would be pasted into a terminal.
    found.tests["visible"] = lambda text: harmless(text) == text
    found.globals |= {
        "static": static.url,
        "instance_path": paths.instance,
        "person_path": paths.person,
        "query": paths.query,
        "in_decimal": wording.in_decimal,
        "size_warnings": wording.warnings,
        "mend": mending.mend,
        "whom": wording.whom,
    }
    return found
