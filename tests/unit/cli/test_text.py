"""Text from containers does nothing when printed, whatever it holds."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hatchway.cli.text import ago, count, safe, span
from hatchway.printable import escaped


@pytest.mark.parametrize(
    "plain",
    [
        "/home/work",
        "[red]x[/red]",
        ":smile:",
        "größe 1",
        "日本語",
        "a\\b",
        "C:\\dir",
        "https://x.org",
        "",
        " ",
        "e\u0301",
    ],
)
def test_visible_text_is_unchanged(plain: str) -> None:
    assert escaped(plain) == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[red]x\x1b]0;title\x07", "[red]x\\x1b]0;title\\x07"),
        ("a\nb", "a\\x0ab"),
        ("a\r\tb", "a\\x0d\\x09b"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2028", "\\u2028"),
        ("\u200b", "\\u200b"),
        ("\u00a0", "\\xa0"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("\\x1b", "\\\\x1b"),
        ("\\\\", "\\\\\\\\"),
        ("\x1b\\", "\\x1b\\\\"),
    ],
)
def test_the_rest_is_written_out(text: str, expected: str) -> None:
    assert escaped(text) == expected


@settings(database=None)
@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    for char in escaped(text):
        assert char == " " or unicodedata.category(char)[0] not in "CZ"


@settings(database=None)
@given(st.text(alphabet="\\xuU01b\x1b\x07\u202e"), st.text(alphabet="\\xuU01b\x1b\x07\u202e"))
def test_different_texts_look_different(one: str, other: str) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)


@pytest.mark.parametrize("text", ["[red]x[/red]", "[bold", "[/]", ":warning:", "[link=https://x.org]y[/link]", "\\[b]"])
def test_markup_is_printed_as_it_is(text: str) -> None:
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="truecolor", width=80).print(safe(text))
    assert file.getvalue() == f"{text}\n"


def test_counts() -> None:
    assert [count(number, "session") for number in (0, 1, 2)] == ["0 sessions", "1 session", "2 sessions"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-1, "0 s ago"), (2.9, "2 s ago"), (300, "5 min ago"), (10_000, "2 h ago"), (400_000, "4 days ago")],
)
def test_ages(seconds: float, expected: str) -> None:
    assert ago(seconds) == expected
    assert f"{span(seconds)} ago" == expected
