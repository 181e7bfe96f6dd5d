"""Where a request comes from. Only a proxy of ours is believed when it says for whom it asks."""

from __future__ import annotations

from collections.abc import Sequence

from hatchway import addresses
from hatchway.addresses import Network

CHAIN_MAX = 20
"""Addresses in X-Forwarded-For that are looked at."""


def client_address(peer: str, forwarded: Sequence[str], proxies: tuple[Network, ...]) -> str:
    """The client's address: that of the socket's peer, or what trusted proxies say, the nearest first.

    `forwarded` are the values of X-Forwarded-For. A proxy adds whom it was asked by at the end; what is in front of the
    first that is no proxy of ours was written by that one, and may be made up.
    """
    nearest = peer
    if not proxies:
        return _written(nearest)
    chain = [one.strip() for value in forwarded for one in value.split(",")][-CHAIN_MAX:]
    while chain and is_proxy(nearest, proxies):
        said = chain.pop()
        if addresses.address(said) is None:
            break
        nearest = said
    return _written(nearest)


def is_proxy(peer: str, proxies: tuple[Network, ...]) -> bool:
    """Whether `peer` is one of ours."""
    return bool(proxies) and addresses.within(proxies, addresses.address(peer))


def _written(text: str) -> str:
    found = addresses.address(text)
    return text if found is None else str(found)
