"""A secret must not leave by any way but `reveal`."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import traceback
from typing import Any

import msgspec
import pytest
import structlog

from hatchway.credentials.secret import Secret

TEXT = "hunter2-Grüße"


def _shown(secret: Secret) -> list[str]:
    """What `secret` looks like in every way of formatting."""
    return [
        str(secret),
        repr(secret),
        ascii(secret),
        f"{secret}",
        f"{secret!r:>40}",
        f"{secret:>40}",
        f"{secret:nonsense}",
        "%s %r" % (secret, secret),  # noqa: UP031
        "{} {!s}".format(secret, secret),  # noqa: UP032
        str([secret]),
        str({"password": secret}),
        json.dumps([secret], default=str),
    ]


@pytest.mark.parametrize("text", [TEXT, "", "x"])
def test_every_way_of_formatting_shows_the_same(text: str) -> None:
    assert _shown(Secret(text)) == _shown(Secret("anything else"))


def test_revealed_it_is_the_text() -> None:
    assert Secret(TEXT).reveal() == TEXT


def test_logs_do_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(TEXT)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("password %s %r", secret, secret, extra={"secret": secret})
    rendered = structlog.processors.LogfmtRenderer()(None, "info", {"event": "made", "password": secret})
    assert "hunter2" not in caplog.text + str(rendered)
    caplog.clear()


def test_tracebacks_with_locals_do_not_show_it() -> None:
    def fails(password: Secret) -> None:
        raise RuntimeError(f"no luck with {password}")

    try:
        fails(Secret(TEXT))
    except RuntimeError as exc:
        shown = "".join(traceback.TracebackException.from_exception(exc, capture_locals=True).format())
    assert "password = <secret>" in shown
    assert "hunter2" not in shown


@dataclasses.dataclass(frozen=True)
class Holder:
    password: Secret


def _encoders() -> list[Any]:
    return [
        pickle.dumps,
        lambda value: pickle.dumps(value, protocol=0),
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.to_builtins,
    ]


@pytest.mark.parametrize("encode", _encoders())
@pytest.mark.parametrize("value", [Secret(TEXT), Holder(Secret(TEXT))])
def test_no_encoder_takes_it(encode: Any, value: object) -> None:
    if encode is copy.copy and isinstance(value, Holder):
        assert "hunter2" not in repr(encode(value))  # a shallow copy holds the same secret
        return
    with pytest.raises(TypeError) as caught:
        encode(value)
    assert "hunter2" not in repr(caught.value)


def test_it_has_no_dictionary_and_no_hash() -> None:
    assert not hasattr(Secret(TEXT), "__dict__")
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(TEXT))


def test_equality_is_that_of_the_text() -> None:
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret("é") != Secret("e")
    other: object = TEXT
    assert Secret(TEXT) != other


@pytest.mark.parametrize("value", [b"hunter2", None, 7])
def test_only_text_is_taken(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Secret(value)
    assert "hunter2" not in str(caught.value)


def test_text_that_cannot_be_encoded_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="UTF-8") as caught:
        Secret("hunter2\udc80")
    assert caught.value.__context__ is None
    assert "hunter2" not in repr(caught.value)
