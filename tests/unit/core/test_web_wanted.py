"""The condition under which the units of the web pages start (systemd.service(5), ExecCondition=)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway import trust, web_wanted


@pytest.mark.parametrize(
    ("text", "status"),
    [("", 1), ("[web]\nenabled = false\n", 1), ("[web]\nenabled = true\n", 0), ("[web]\nenabled = 1\n", 255)],
)
def test_web_enabled_decides(
    text: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trust, "require", lambda *_, **__: None)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    path = tmp_path / "hatchway.toml"
    path.write_text(text)
    monkeypatch.setattr("sys.argv", ["hatchway-web-wanted", "--config", str(path)])
    with pytest.raises(SystemExit) as end:
        web_wanted.main()
    assert end.value.code == status
    said = capsys.readouterr()
    assert ("web.enabled is off" in said.out) == (status == 1)
    assert ("web.enabled" in said.err) == (status == 255)
