"""Values and bytes that nobody would send by mistake, for the sockets of a core on a stage. With hypothesis.

How many are tried is the same every time. HATCHWAY_FUZZ=NUMBER tries so many times as much, and others every time.
"""

from __future__ import annotations

import enum
import os
import types
import typing
from typing import Any, get_args, get_origin

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.unit.core.stage import Stage

FACTOR = int(os.environ.get("HATCHWAY_FUZZ", "0"))

NASTY = (
    "",
    " ",
    "/",
    "..",
    "/data",
    "/data/../logs",
    "/nope",
    "web",
    "shop/web/1",
    "shop-web-1",
    "shop/web/99999999999999999999",
    "shop/web/-1",
    "shop//1",
    "*",
    "0.0.0.0/0",
    "::/0",
    "!10.0.0.0/8",
    "127.0.0.1",
    "ssh-ed25519 AAAA",
    "$6$rounds=999999999$x$y",
    "$argon2id$v=19$m=4194304,t=9,p=1$AAAA$BBBB",
    "password",
    "root\n",
    "a\0b",
    "\x1b]0;title\x07",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt",
    "\N{SNOWMAN}" * 300,
    "x" * 5000,
    "%s{0}",
    "'; DROP TABLE events; --",
)
NUMBERS = (0, -1, 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -0.0, -1.0, 1e-300, 1e18, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))

KNOWN: dict[str, tuple[Any, ...]] = {
    "instance": ("web", "shop/web/1", "shop-web-1"),
    "volumes": (["/data"], ["/logs"], ["/data", "/logs"]),
    "kind": ("raw", "hashed", "ed25519"),
    "password": ("a password to be set",),
    "encoded": ("$5$saltsalt$" + "A" * 43,),
    "limit": (1, 100),
}
"""Values of the stage that make sense in a field of that name, since nothing else would get far."""

TEXTS = st.sampled_from(NASTY) | st.text(max_size=40)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(FLOATS) | TEXTS | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def budget(examples: int) -> settings:
    """Try `examples`, the same every time, or more as HATCHWAY_FUZZ says."""
    return settings(
        max_examples=examples * max(1, FACTOR),
        derandomize=FACTOR == 0,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values that msgspec encodes so that they decode as `kind`: a type a message's field may have."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(of_type(one) for one in arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(of_type(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(of_type, arguments)).map(list)
    if isinstance(kind, typing.NewType):
        return of_type(kind.__supertype__)
    if kind is type(None):
        return st.none()
    if kind is msgspec.UnsetType:
        return st.just(msgspec.UNSET)
    if kind is str:
        return TEXTS
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from(NUMBERS[:-1]) | st.integers(-100, 100)
    if kind is float:
        return st.sampled_from(FLOATS) | st.floats(-1e6, 1e6)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from([one.value for one in kind])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return of_struct(kind)
    raise TypeError(f"no values known for {kind}")


def of_struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that decode as the struct `kind`, fields that have defaults left out at times."""
    needed: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        values = of_type(field.type)
        if field.name in KNOWN:
            values |= st.sampled_from(KNOWN[field.name])
        (needed if field.required else optional)[field.encode_name] = values
    tag = kind.__struct_config__.tag
    if tag is not None:
        needed[str(kind.__struct_config__.tag_field)] = st.just(tag)
    return st.fixed_dictionaries(needed, optional=optional).map(
        lambda found: {name: value for name, value in found.items() if value is not msgspec.UNSET}
    )


def spoiled(kind: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that claim to be `kind`, with anything in its fields and fields it has not."""
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    name = st.sampled_from(names) | TEXTS if names else TEXTS
    config = kind.__struct_config__
    return st.dictionaries(name, ANYTHING, max_size=6).map(lambda found: {**found, str(config.tag_field): config.tag})


def entered(stage: Stage) -> bool:
    """Whether anybody got in."""
    return bool(stage.host.sessions) or bool(stage.core.registry.open_sessions())
