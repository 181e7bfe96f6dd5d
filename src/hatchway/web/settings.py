"""What the web process is told by the configuration file: its section [web], and where things are.

Seam: config.py will have the section, checked there as all others are; then `load` is configuration.load.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from hatchway import addresses
from hatchway.errors import ConfigError, UsageError

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})")


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section [web]. Times in seconds.

    `tls`: "own" makes a certificate of its own at the first start, "files" takes `certificate` and `key`, "proxy" has
    TLS ended by a proxy, one of `trusted_proxies`, "off" is for loopback addresses only.
    """

    enabled: bool = False
    listen: tuple[str, ...] = ("127.0.0.1:8022",)
    tls: Literal["own", "files", "proxy", "off"] = "own"
    certificate: str = ""
    key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    operators_group: str = "hatchway-operators"
    session_idle_s: int = 1800
    session_s: int = 43200


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """What the web process needs of the other sections.

    `own_dir` is the only directory it writes to: the unit's StateDirectory=, or one beside the core's, which is closed
    to it.
    """

    core_socket: str
    own_dir: str
    log_level: str


def load(path: Path) -> tuple[WebSettings, Places]:
    """Read the file. Raises ConfigError."""
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: {exc}") from None
    try:
        settings = msgspec.convert(whole.get("web", {}), WebSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: [web]: {exc}") from None
    paths = whole.get("paths", {})
    places = Places(
        core_socket=f"{paths.get('run_dir', '/run/hatchway')}/web.sock",
        own_dir=os.environ.get("STATE_DIRECTORY") or f"{paths.get('state_dir', '/var/lib/hatchway')}-web",
        log_level=whole.get("log", {}).get("level", "info"),
    )
    check(settings)
    return settings, places


def https(settings: WebSettings) -> bool:
    """Whether browsers come by https."""
    return settings.tls != "off"


def proxies(settings: WebSettings) -> tuple[addresses.Network, ...]:
    """`trusted_proxies` as networks. Raises ConfigError."""
    try:
        return addresses.networks(settings.trusted_proxies)
    except UsageError as exc:
        raise ConfigError(f"web.trusted_proxies: {exc}") from None


def check(settings: WebSettings) -> None:
    """Raises ConfigError for what cannot be, or would be unsafe."""
    if not settings.listen:
        raise ConfigError("web.listen: name an address such as 127.0.0.1:8022")
    for text in settings.listen:
        host, _port = listening(text)
        if settings.tls == "off" and not _is_loopback(host):
            raise ConfigError(
                f'web.listen: {text} with web.tls = "off": passwords would cross the network in clear; '
                'listen on 127.0.0.1, or set web.tls to "own", "files" or "proxy"'
            )
    if settings.tls == "files" and not (settings.certificate and settings.key):
        raise ConfigError('web.tls = "files": set web.certificate and web.key')
    if not proxies(settings) and settings.tls == "proxy":
        raise ConfigError('web.tls = "proxy": set web.trusted_proxies, such as ["127.0.0.1"]')


def listening(text: str) -> tuple[str, int]:
    """Host and port of one of `listen`. Raises ConfigError."""
    found = _LISTEN.fullmatch(text)
    if found is None or not 0 <= int(found[3]) <= 65535:
        raise ConfigError(f"web.listen: {text!r} is no address: expected HOST:PORT, such as 127.0.0.1:8022")
    return found[1] or found[2], int(found[3])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
