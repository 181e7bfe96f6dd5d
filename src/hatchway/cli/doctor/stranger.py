"""A login that nobody has. The core keeps what doctor tries with it out of log and record: model.is_probe."""

from __future__ import annotations

import secrets


def login() -> str:
    """Another one each time."""
    return f"nobody-{secrets.token_hex(6)}"
