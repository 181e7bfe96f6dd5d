"""The rendered files: what must stand in them, and what must not, for each version."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway.config import Config, Ids, Paths, Sshd
from hatchway.sshd import render
from hatchway.sshd.version import Version

ROOT = Path(__file__).parents[3]
VERSIONS: list[Version] = [(8, 7), (8, 9), (9, 1), (9, 2), (9, 6), (9, 8), (9, 9), (10, 0)]
CONFIG = Config(paths=Paths(libexec_dir="/usr/libexec/hatchway"))


def keywords(text: str) -> dict[str, list[str]]:
    """Keyword -> its values, in the order of the lines; comments left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            keyword, _, value = line.strip().partition(" ")
            found.setdefault(keyword, []).append(value)
    return found


def test_the_shipped_policy_is_the_rendered_one() -> None:
    shipped = (ROOT / "sshd_config.d" / "hatchway.conf").read_text()
    assert shipped == render.packaged_policy(), (
        "render it again: PYTHONPATH=src python -c 'from hatchway.sshd import render; "
        "print(render.packaged_policy(), end=str())' > sshd_config.d/hatchway.conf"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_is_one_match_block(version: Version) -> None:
    text = render.policy(CONFIG, version)
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines[0] == "Match LocalPort 2022"
    assert all(line.startswith("    ") for line in lines[1:])
    assert keywords(text)["Match"] == ["LocalPort 2022"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_allows_sftp_and_nothing_else(version: Version) -> None:
    found = keywords(render.policy(CONFIG, version))
    expected = {
        "AllowGroups": "hatchway-sftp",
        "AllowUsers": "*",
        "AuthenticationMethods": "any",
        "AuthorizedKeysFile": "none",
        "AuthorizedKeysCommand": "/usr/libexec/hatchway/authorized-keys /run/hatchway/auth.sock %u",
        "AuthorizedKeysCommandUser": "hatchway-keys",
        "AuthorizedPrincipalsCommand": "none",
        "AuthorizedPrincipalsFile": "none",
        "TrustedUserCAKeys": "none",
        "PubkeyAuthentication": "yes",
        "PubkeyAuthOptions": "none",
        "PasswordAuthentication": "yes",
        "KbdInteractiveAuthentication": "no",
        "PermitEmptyPasswords": "no",
        "PermitRootLogin": "no",
        "HostbasedAuthentication": "no",
        "GSSAPIAuthentication": "no",
        "KerberosAuthentication": "no",
        "ChrootDirectory": "/run/hatchway/mnt/%u",
        "ForceCommand": "internal-sftp -u 0 -P users-groups-by-id@openssh.com",
        "DisableForwarding": "yes",
        "AllowTcpForwarding": "no",
        "AllowStreamLocalForwarding": "no",
        "AllowAgentForwarding": "no",
        "X11Forwarding": "no",
        "PermitTunnel": "no",
        "GatewayPorts": "no",
        "PermitOpen": "none",
        "PermitListen": "none",
        "PermitTTY": "no",
        "PermitUserRC": "no",
        "ExposeAuthInfo": "no",
        "Banner": "none",
    }
    assert {keyword: found.get(keyword) for keyword in expected} == {k: [v] for k, v in expected.items()}
    assert not {"AcceptEnv", "SetEnv", "Include", "Subsystem"} & set(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_keywords_a_version_does_not_know_are_left_out(version: Version) -> None:
    policy = keywords(render.policy(CONFIG, version))
    assert ("RequiredRSASize" in policy) == (version >= (9, 1))
    assert ("UnusedConnectionTimeout" in policy) == (version >= (9, 2))
    dedicated = keywords(render.dedicated(CONFIG, version, "/p"))
    for keyword in ("PAMServiceName", "PerSourcePenalties", "PerSourcePenaltyExemptList"):
        assert (keyword in dedicated) == (version >= (9, 8))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dedicated_file_sets_what_is_global_and_includes_the_policy_last(version: Version) -> None:
    text = render.dedicated(CONFIG, version, "/run/hatchway/sshd/hatchway.conf")
    found = keywords(text)
    expected = {
        "Port": ["2022"],
        "ListenAddress": ["0.0.0.0", "::"],
        "HostKey": ["/etc/hatchway/ssh/ssh_host_ed25519_key", "/etc/hatchway/ssh/ssh_host_rsa_key"],
        "PidFile": ["none"],
        "UsePAM": ["yes"],
        "Subsystem": ["sftp internal-sftp"],
        "LoginGraceTime": ["30"],
        "MaxStartups": ["400:30:600"],
        "PerSourceMaxStartups": ["20"],
        "PerSourceNetBlockSize": ["32:48"],
        "UseDNS": ["no"],
        "PrintMotd": ["no"],
        "PermitUserEnvironment": ["no"],
        "Include": ["/run/hatchway/sshd/hatchway.conf"],
    }
    assert {keyword: found.get(keyword) for keyword in expected} == expected
    assert text.splitlines()[-1] == "Include /run/hatchway/sshd/hatchway.conf"
    assert not {"Match", "AcceptEnv", "DebianBanner"} & set(found)


def test_values_come_from_the_configuration() -> None:
    config = Config(
        paths=Paths(run_dir="/run/h2", libexec_dir="/opt/h2"),
        sshd=Sshd(
            port=2222,
            listen=("192.0.2.1",),
            host_key_dir="/opt/keys",
            pam_service="hatchway-two",
            login_grace_s=60,
            max_startups="8",
        ),
        ids=Ids(keys_user="k", session_group="g"),
    )
    policy = keywords(render.policy(config, (10, 0)))
    assert policy["Match"] == ["LocalPort 2222"]
    assert policy["AllowGroups"] == ["g"]
    assert policy["AuthorizedKeysCommand"] == ["/opt/h2/authorized-keys /run/h2/auth.sock %u"]
    assert policy["AuthorizedKeysCommandUser"] == ["k"]
    assert policy["ChrootDirectory"] == ["/run/h2/mnt/%u"]
    assert policy["ForceCommand"] == ["internal-sftp -u 0 -P users-groups-by-id@openssh.com"]
    dedicated = keywords(render.dedicated(config, (10, 0), "/p", "/run/h2/sshd.pid"))
    assert dedicated["Port"] == ["2222"]
    assert dedicated["ListenAddress"] == ["192.0.2.1"]
    assert dedicated["PidFile"] == ["/run/h2/sshd.pid"]
    assert dedicated["PAMServiceName"] == ["hatchway-two"]
    assert dedicated["LoginGraceTime"] == ["60"]
    assert dedicated["PerSourceMaxStartups"] == ["10"]


@pytest.mark.parametrize(
    ("startups", "most"), [("400:30:600", "20"), ("100:30:200", "20"), ("45", "15"), ("20:30:40", "10"), ("8", "10")]
)
def test_one_address_holds_a_small_part_of_the_connections_before_login(startups: str, most: str) -> None:
    """And always the ten of one FileZilla."""
    found = keywords(render.dedicated(Config(sshd=Sshd(max_startups=startups)), (9, 2), "/p"))
    assert found["PerSourceMaxStartups"] == [most]


def test_every_line_has_its_reason() -> None:
    for text in (render.packaged_policy(), render.dedicated(CONFIG, (10, 0), "/p"), render.pam_service(CONFIG)):
        blocks = [block.splitlines() for block in text.split("\n\n")[1:]]
        assert all(block[0].lstrip().startswith("#") or block[0].startswith("Match ") for block in blocks)
        assert all(len(line) <= 118 for line in text.splitlines() if line.lstrip().startswith("#"))


def test_pam_asks_us_and_nobody_else() -> None:
    lines = [line for line in render.pam_service(CONFIG).splitlines() if line and not line.startswith("#")]
    helper = "/usr/libexec/hatchway/pam /run/hatchway/auth.sock"
    assert lines == [
        f"auth [success=ok default=die] pam_exec.so quiet expose_authtok {helper}",
        "auth required pam_permit.so",
        f"account [success=ok default=die] pam_exec.so quiet {helper}",
        "account required pam_permit.so",
        f"session [success=ok ignore=ignore default=die] pam_exec.so quiet type=open_session {helper}",
        "session required pam_permit.so",
        "password required pam_deny.so",
    ]
    assert render.MARKER in render.pam_service(CONFIG).splitlines()
