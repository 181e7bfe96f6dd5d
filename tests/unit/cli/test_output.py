"""Output is whole, uncoloured when nobody looks, and JSON when asked for."""

from __future__ import annotations

import io
import json

import pytest
from rich.text import Text

from hatchway.cli import output
from hatchway.cli.output import Terminal, columns


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    terminal.file = io.StringIO()
    return terminal


def written(terminal: Terminal) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_long_values_are_never_cut_or_wrapped(terminal: Terminal) -> None:
    path = "/very/long" * 40 + "-end of it with spaces " * 10
    terminal.field("Path", path)
    assert written(terminal) == f"  {'Path':14}{path}\n"


def test_a_label_never_runs_into_its_value(terminal: Terminal) -> None:
    for label in ("Port", "Twelve chars", "Share with them"):
        terminal.field(label, "value", width=14)
    assert written(terminal).splitlines() == [
        "  Port          value",
        "  Twelve chars  value",
        "  Share with them  value",
    ]


def test_sentences_are_wrapped_but_words_are_whole(terminal: Terminal) -> None:
    path = "/a-long-path/" * 10
    terminal.sentence(f"this is where {path} stands " + "and goes on " * 10, label="ok  ")
    lines = written(terminal).splitlines()
    assert lines[0].startswith("ok  this is where")
    assert all(line.startswith("    ") for line in lines[1:])
    assert any(line.strip() == path for line in lines)
    assert all(len(line) <= 80 or path in line for line in lines)


def test_columns_are_aligned_in_terminal_cells() -> None:
    rows = [[Text("a"), Text("日本"), Text("x")], [Text("bcd"), Text("-"), Text("")]]
    assert [line.plain for line in columns(rows)] == ["a    日本  x", "bcd  -"]


def test_documents_are_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    output.document({"name": "ü\x1b\u202e\udcff"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"name": "ü\x1b\u202e\udcff"}


def test_a_reader_that_left_is_an_exception_not_an_exit(terminal: Terminal) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    terminal.file = Closed()
    with pytest.raises(BrokenPipeError):
        terminal.out("x")
