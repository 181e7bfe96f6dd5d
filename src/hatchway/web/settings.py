"""What the section [web] of the configuration means to the web process."""

from __future__ import annotations

import os

from hatchway import addresses
from hatchway.config import Config, Web


def https(web: Web) -> bool:
    """Whether browsers come by https."""
    return web.tls != "off"


def proxies(web: Web) -> tuple[addresses.Network, ...]:
    """`trusted_proxies` as networks."""
    return addresses.networks(web.trusted_proxies)


def own_directory(config: Config) -> str:
    """The only directory the process writes to: its unit's StateDirectory=, or what `hatchway run` makes."""
    return os.environ.get("STATE_DIRECTORY") or config.web_dir
