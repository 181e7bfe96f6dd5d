"""scripts/demo gets along with a Hatchway that is installed, and knows what it must take away."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import asdict

from hatchway import config as configuration
from hatchway.config import Config
from hatchway.sshd import render

ROOT = Path(__file__).parents[3]
DEMO = (ROOT / "scripts" / "demo").read_text()

NAMES = ("RUN_DIR", "PAM_SERVICE", "FIRST_UID", "LAST_UID")
"""Variables of the script's head, without those of a run."""

OF_A_RUN = {
    "RUN": "/var/cache/hatchway-dev/run.x",
    "port": "2022",
    "listen": '["0.0.0.0", "::"]',
    "host": "192.0.2.2",
    "web_listen": "0.0.0.0",
    "web_port": "8022",
    "sources": "",
}


@pytest.fixture(scope="module")
def config() -> Config:
    """What the demo runs with, as the shell writes it."""
    head = "\n".join(line for name in NAMES for line in re.findall(rf"^{name}=.*$", DEMO, re.MULTILINE))
    (text,) = re.findall(r'^cat >"\$RUN/hatchway\.toml" <<TOML\n(.*?)^TOML$', DEMO, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        ["/bin/bash", "-u", "-c", f"{head}\ncat <<TOML\n{text}TOML\n"],
        env={"PATH": "/usr/bin:/bin", **OF_A_RUN},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return configuration.parse(done.stdout)


def test_names_and_numbers_are_its_own(config: Config) -> None:
    usual = asdict(Config().ids)
    assert {key for key, value in asdict(config.ids).items() if value == usual[key]} == set()
    ranges = [value for key, value in usual.items() if key.endswith("_uids")]
    (first,), (last,) = (re.findall(rf"\b{name}=(\d+)", DEMO) for name in ("FIRST_UID", "LAST_UID"))
    assert all(end < int(first) or begin > int(last) for begin, end in ranges)
    for key, value in asdict(config.ids).items():
        if key.endswith("_uids"):
            assert int(first) <= value[0] <= value[1] <= int(last), key
    assert config.paths.run_dir != Config().paths.run_dir
    assert config.sshd.pam_service != Config().sshd.pam_service


def test_it_has_web_pages_and_shows_their_certificate(config: Config) -> None:
    assert config.web.enabled
    assert config.web.tls == "own"
    assert config.web_dir == f"{OF_A_RUN['RUN']}/state-web"
    assert '"$RUN/state-web/certificate.pem"' in DEMO


def test_what_one_that_was_killed_leaves_is_known(config: Config) -> None:
    """It is taken away by the next one."""
    (path,) = re.findall(r"^SIGNIN_FILE=(\S+)", DEMO, re.MULTILINE)
    assert path == config.signin_pam_path
    assert f"grep -qsxF '{render.MARKER}'" in DEMO
    made = '"signin-service-made"'
    assert made in (ROOT / "src" / "hatchway" / "supervisor.py").read_text()
    assert "$RUN_DIR/signin-service-made" in DEMO


def test_its_programs_can_be_read() -> None:
    programs = re.findall(r"\bpython - .*<<'EOP'.*\n([^\0]*?)^EOP$", DEMO, re.MULTILINE)
    assert len(programs) == len(re.findall(r"\bpython - ", DEMO)) > 0
    for number, text in enumerate(programs):
        compile(text, f"program {number} of scripts/demo", "exec")
