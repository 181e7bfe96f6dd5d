"""The server's name or address, as each place where it stands wants it."""

from __future__ import annotations

import ipaddress
from urllib.parse import quote


def is_address(host: str) -> bool:
    """Whether `host` is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def bracketed(host: str) -> str:
    """As sftp(1) wants it, which ends a host at its first colon: an IPv6 address needs brackets."""
    return f"[{host}]" if ":" in host else host


def in_url(host: str) -> str:
    """As a URL wants it (RFC 3986, 3.2.2)."""
    return bracketed(host) if ":" in host else quote(host, safe="")
