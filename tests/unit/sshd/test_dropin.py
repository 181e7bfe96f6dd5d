"""The drop-in's files as text, and what sshd's own configuration has to be like. What they do is for booted hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hatchway.config import Config, Paths, Sshd
from hatchway.errors import ConflictError, HostError
from hatchway.sshd import dropin, hostkeys, hosts, render

CONFIG = Config(paths=Paths(libexec_dir="/usr/libexec/hatchway"))
DEBIANS = "# PAM of the host's\n@include common-auth\naccount required pam_nologin.so\n"
LOCAL_PORT = Path(__file__).parents[3] / "src" / "libexec" / "local-port"


def stack(kind: str) -> list[str]:
    """Our lines of one stack."""
    lines = dropin.pam_block(CONFIG).splitlines()
    return [line for line in lines if line.startswith(f"{kind} ")]


@pytest.mark.parametrize("kind", ["auth", "account", "session"])
def test_every_jump_lands_behind_our_lines(kind: str) -> None:
    """One short, and the host's accounts would be asked of Hatchway; one too far, and a line of the host's is left
    out."""
    lines = stack(kind)
    jumps = 0
    for number, line in enumerate(lines):
        for wide in re.findall(r"=(\d+)\b", line.partition("]")[0]):
            assert number + int(wide) + 1 == len(lines), line
            jumps += 1
    assert jumps >= 2
    assert "pam_exec.so" in "".join(lines)
    # The last of ours ends the stack for ours: the host's modules have no say.
    assert lines[-1].startswith(f"{kind} [success=done ")


def test_what_stands_in_the_pam_file() -> None:
    first, last = CONFIG.ids.login_uids
    for kind in ("account", "session"):
        lines = stack(kind)
        assert lines[0].endswith(f"pam_succeed_if.so quiet uid < {first}")
        assert lines[1].endswith(f"pam_succeed_if.so quiet uid > {last}")
    assert "local-port is-not 2022" in stack("auth")[0]
    assert all("quiet" in line for line in dropin.pam_block(CONFIG).splitlines() if "pam_exec.so" in line)


def test_lines_come_and_go() -> None:
    once = dropin.with_block(DEBIANS, CONFIG)
    assert once.endswith(DEBIANS)
    assert dropin.with_block(once, CONFIG) == once
    assert dropin.without_block(once, "x") == DEBIANS
    # Another port, and what the host's administrator has written around ours since.
    other = dropin.with_block(f"# above\n{once}# below\n", Config(sshd=Sshd(port=2222)))
    assert "2022" not in other
    assert dropin.without_block(other, "x") == f"# above\n{DEBIANS}# below\n"
    assert dropin.without_block("", "x") == ""


@pytest.mark.parametrize(
    "spoilt",
    [
        dropin.pam_block(CONFIG).replace(f"{dropin.END}\n", "") + DEBIANS,
        dropin.pam_block(CONFIG).replace(f"{dropin.BEGIN}\n", "") + DEBIANS,
        dropin.pam_block(CONFIG) * 2 + DEBIANS,
    ],
)
def test_lines_that_cannot_be_told_apart_are_left_alone(spoilt: str) -> None:
    with pytest.raises(ConflictError, match="take them out"):
        dropin.without_block(spoilt, "/etc/pam.d/sshd")


@pytest.mark.parametrize(
    ("connection", "status"),
    [
        ("192.0.2.1 50022 192.0.2.2 2022", 0),
        ("192.0.2.1 2022 192.0.2.2 22", 1),
        ("2001:db8::1 50022 2001:db8::2 12022", 1),
        ("2022", 0),
        ("", 1),
        (None, 1),
    ],
)
def test_which_port_it_came_to(connection: str | None, status: int) -> None:
    environment = {} if connection is None else {"SSH_CONNECTION": connection}
    for question, expected in (("is", status), ("is-not", 1 - status if connection else 1)):
        done = subprocess.run([LOCAL_PORT, question, "2022"], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (expected, b"", b""), question
    assert subprocess.run([LOCAL_PORT], env=environment, capture_output=True, check=False).returncode == 1


def test_the_file_for_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropin, "FILE", str(tmp_path / "00-hatchway.conf"))
    assert not dropin.in_place(CONFIG)
    assert dropin.host_key_files(CONFIG) is None
    keys = ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"]
    text = dropin.sshd_text(CONFIG, (9, 2), ["Port 22", "Port 2022"], keys)
    outside, _, policy = text.partition("\nMatch LocalPort 2022\n")
    said = [line for line in outside.splitlines() if line and not line.startswith("#")]
    assert said == ["Port 22", "Port 2022"]
    assert policy == render.policy(CONFIG, (9, 2)).partition("\nMatch LocalPort 2022\n")[2]
    Path(dropin.FILE).write_text(text)
    assert dropin.in_place(CONFIG)
    assert dropin.host_key_files(CONFIG) == tuple(keys)
    # Another Hatchway on the same host is none of its business.
    other = Config(paths=Paths(run_dir="/run/hatchway2"))
    assert not dropin.in_place(other)
    assert dropin.host_key_files(other) is None


def test_where_systemd_listens() -> None:
    assert dropin.socket_text(CONFIG).splitlines()[-2:] == ["[Socket]", "ListenStream=2022"]
    some = Config(sshd=Sshd(port=2022, listen=("192.0.2.1", "2001:db8::1")))
    assert "ListenStream=192.0.2.1:2022\nListenStream=[2001:db8::1]:2022\n" in dropin.socket_text(some)


@pytest.mark.parametrize(
    ("main", "others", "found"),
    [
        ("Include /etc/ssh/sshd_config.d/*.conf\nMatch User x\n", {}, None),
        ("# Match\nInclude sshd_config.d/*.conf\n", {"50-cloud.conf": "Match all\n"}, None),
        ("Port 22\n", {}, "does not include"),
        ("Include /etc/ssh/other.d/*\n", {}, "does not include"),
        ("Include /etc/ssh/sshd_config.d/5*.conf\n", {}, "does not include"),
        ("match=user x\nInclude /etc/ssh/sshd_config.d/*.conf\n", {}, "line 1 of"),
        ("Include /etc/ssh/sshd_config.d/*.conf\n", {"00-a.conf": "  MATCH User x\n"}, "00-a.conf has a Match block"),
    ],
)
def test_a_match_block_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: str, others: dict[str, str], found: str | None
) -> None:
    directory = tmp_path / "sshd_config.d"
    directory.mkdir()
    monkeypatch.setattr(hosts, "SSH_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(dropin, "DIRECTORY", str(directory))
    monkeypatch.setattr(dropin, "FILE", str(directory / "00-hatchway.conf"))
    (tmp_path / "sshd_config").write_text(main.replace("/etc/ssh", str(tmp_path)))
    for name, text in others.items():
        (directory / name).write_text(text)
    said = hosts.match_before(str(tmp_path / "sshd_config"))
    assert (said is None) == (found is None)
    assert found is None or found in str(said)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_the_host(tmp_path: Path) -> None:
    files = []
    for kind in ("rsa", "ecdsa", "ed25519"):
        files.append(str(tmp_path / f"ssh_host_{kind}_key"))
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", files[-1]], check=True)
    found = hostkeys.of(files)
    assert [key.algorithm for key in found] == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
    with pytest.raises(HostError, match="no host key"):
        hostkeys.of([])
    with pytest.raises(HostError, match="ssh_host_dsa_key"):
        hostkeys.of([str(tmp_path / "ssh_host_dsa_key")])
