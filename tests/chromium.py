"""Debian's Chromium, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright
from tests.conftest import BROWSER


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """One without a window."""
    with sync_playwright() as playwright:
        # Without a sandbox of its own: tests run as root, and it opens nothing but our pages.
        made = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            yield made
        finally:
            made.close()
