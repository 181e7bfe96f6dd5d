"""What sshd itself says of a drop-in beside other settings of the host, before anything is written.

Each case is looked at in a mount name space of its own, in which /etc/ssh has the host's settings of that case.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hatchway.sshd import version

MAIN = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\nSubsystem sftp /usr/lib/openssh/sftp-server\n"

# Run in that name space: $1 is what is to be at /etc/ssh.
ENTER = 'set -e; mount --bind "$1" /etc/ssh; shift; exec "$@"'
LOOK = """
import json, sys
from hatchway.config import Config, Paths, Sshd
from hatchway.errors import HatchwayError
from hatchway.sshd import changeover, dropin, hosts, version
config = Config(sshd=Sshd(listen=tuple(sys.argv[1].split())))
known = version.of(config.sshd.binary)
try:
    if (found := hosts.match_before()) is not None:
        print(json.dumps({"refused": found}))
        sys.exit()
    before = hosts.settings(config.sshd.binary, None)
    changeover._suits(config, before)
    lines = changeover._listening(config, before, known)
    keys = changeover._host_keys(before)
    text = dropin.sshd_text(config, known, lines, keys)
    changeover._holds(config, known, text)
    after = hosts.settings(config.sshd.binary, text)["listenaddress"]
    print(json.dumps({"lines": lines, "listens": sorted(after), "keys": keys}))
except HatchwayError as exc:
    print(json.dumps({"refused": str(exc)}))
"""
BOTH = "0.0.0.0 ::"


def look(directory: Path, main: str = MAIN, listen: str = BOTH, **others: str) -> dict[str, object]:
    """What comes of it on a host with that sshd_config, and these files of sshd_config.d."""
    etc = directory / "ssh"
    (etc / "sshd_config.d").mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / "ssh_host_ed25519_key"], check=True)
    (etc / "sshd_config").write_text(main)
    for name, text in others.items():
        (etc / "sshd_config.d" / f"{name}.conf").write_text(text)
    separate = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(etc)]
    done = subprocess.run(
        [*separate, sys.executable, "-c", LOOK, listen], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (etc / "sshd_config.d").iterdir()) == sorted(f"{name}.conf" for name in others)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


EVERYWHERE = ["0.0.0.0:2022", "0.0.0.0:22", "[::]:2022", "[::]:22"]


@pytest.mark.parametrize(
    ("others", "listen", "lines", "listens"),
    [
        ("", BOTH, ["Port 22", "Port 2022"], EVERYWHERE),
        ("Port 22\n", BOTH, ["Port 2022"], EVERYWHERE),
        ("Port 2200\n", BOTH, ["Port 2022"], ["0.0.0.0:2022", "0.0.0.0:2200", "[::]:2022", "[::]:2200"]),
        ("AddressFamily inet\n", BOTH, ["Port 22", "Port 2022"], ["0.0.0.0:2022", "0.0.0.0:22"]),
        (
            "ListenAddress 127.0.0.1\n",
            BOTH,
            ["ListenAddress 0.0.0.0:2022", "ListenAddress [::]:2022"],
            ["0.0.0.0:2022", "127.0.0.1:22", "[::]:2022"],
        ),
        ("ListenAddress 127.0.0.1\n", "127.0.0.1", ["Port 22", "Port 2022"], ["127.0.0.1:2022", "127.0.0.1:22"]),
        (
            "",
            "127.0.0.1",
            ["ListenAddress 0.0.0.0:22", "ListenAddress [::]:22", "ListenAddress 127.0.0.1:2022"],
            ["0.0.0.0:22", "127.0.0.1:2022", "[::]:22"],
        ),
        (
            "ListenAddress 127.0.0.1:2222\nListenAddress ::1\nPort 22\n",
            "::1",
            ["Port 2022"],
            ["127.0.0.1:2222", "[::1]:2022", "[::1]:22"],
        ),
    ],
)
def test_where_it_listens(tmp_path: Path, others: str, listen: str, lines: list[str], listens: list[str]) -> None:
    """Where it did, and where we are to; by Port where that will do."""
    found = look(tmp_path, listen=listen, **{"50-host": others})
    assert (found.get("lines"), found.get("listens")) == (lines, listens), found
    assert found["keys"] == ["/etc/ssh/ssh_host_ed25519_key"]


@pytest.mark.parametrize(
    ("others", "because"),
    [
        ("UsePAM no\n", "needs 'UsePAM yes'"),
        ("Port 2022\n", "listens at port 2022 for itself"),
        ("Match all\n    AllowGroups wheel\n", "'AllowGroups hatchway-sftp' would not hold"),
        ("Nonsense yes\n", "Bad configuration option: Nonsense"),
    ],
)
def test_what_is_in_the_way(tmp_path: Path, others: str, because: str) -> None:
    assert because in str(look(tmp_path, **{"50-host": others}).get("refused"))


def test_what_the_host_sets_for_itself_does_not_count(tmp_path: Path) -> None:
    """Neither outside of Match blocks nor in later ones."""
    everywhere = (
        "AllowUsers anna\nAllowGroups wheel\nPasswordAuthentication no\nPubkeyAuthOptions verify-required\n"
        "AuthorizedKeysFile /etc/ssh/keys/%u\nAuthenticationMethods publickey\nExposeAuthInfo yes\n"
        "PermitRootLogin yes\nMaxSessions 1\nChrootDirectory /srv\nForceCommand /bin/false\nBanner /etc/issue\n"
        "TrustedUserCAKeys /etc/ssh/ca\nClientAliveInterval 1\nRequiredRSASize 4096\nPermitTunnel yes\n"
    )
    later = "Match all\n    PasswordAuthentication no\n    ForceCommand /bin/sh\n    AuthorizedKeysFile /keys\n"
    if version.of("/usr/sbin/sshd") < version.parse("OpenSSH_9.1"):
        everywhere = everywhere.replace("RequiredRSASize 4096\n", "")
    found = look(tmp_path, **{"50-host": everywhere, "60-host": later})
    assert found.get("lines") == ["Port 22", "Port 2022"], found


@pytest.mark.parametrize(
    ("main", "because"),
    [
        (MAIN.replace("Subsystem", "#Subsystem"), "has no service sftp"),
        ("UsePAM yes\nSubsystem sftp internal-sftp\n", "does not include"),
        (
            f"Match User x\n    X11Forwarding no\nMatch all\n{MAIN}",
            "line 1 of /etc/ssh/sshd_config begins a Match block",
        ),
    ],
)
def test_the_main_file(tmp_path: Path, main: str, because: str) -> None:
    assert because in str(look(tmp_path, main).get("refused"))
