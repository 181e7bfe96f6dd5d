"""The text of the files that make an sshd speak SFTP and nothing else, and of the PAM service by which operators
sign in to the web pages. Pure: no I/O, no state.

The policy is one `Match LocalPort` block, so the same text serves the dedicated sshd and the host's own (see dropin).
The dedicated file sets the keywords that sshd takes only globally and includes the policy. The PAM file hands every
stage to our helper and names no other source of truth.

Each line says why it is there; sources are sshd_config(5) of OpenSSH 8.7 to 10.0, pam.conf(5) and pam_exec(8).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from hatchway.config import PACKAGE_PREFIX, Config, Paths, default_libexec_dir
from hatchway.sshd.version import Version

MARKER = "# Written by Hatchway; changes are lost."
"""The line by which we know a file in the PAM directory as our own."""

PACKAGED = Config(paths=Paths(libexec_dir=default_libexec_dir(PACKAGE_PREFIX)))
"""What sshd_config.d/hatchway.conf in the source tree is rendered from: all defaults, installed as a package."""
PACKAGED_VERSION: Version = (9, 2)
"""The OpenSSH that file is for: Debian 12's, the oldest we test."""

HOST_KEYS = ("ssh_host_ed25519_key", "ssh_host_rsa_key")
"""Names of the private host keys in `sshd.host_key_dir`, the one clients should prefer first."""

PER_SOURCE = 20
"""Connections before login that one address may hold: the ten a FileZilla begins at once, and as many of others behind
the same address who log in within the same second or type their password."""

SINCE_REQUIRED_RSA_SIZE: Version = (9, 1)
SINCE_UNUSED_CONNECTION_TIMEOUT: Version = (9, 2)
SINCE_PAM_SERVICE_NAME: Version = (9, 8)
SINCE_PENALTIES: Version = (9, 8)


def rule_lines(why: str, *lines: str, indent: str = "") -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(
        why, width=110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )
    for line in lines:
        yield indent + line


def policy(config: Config, version: Version) -> str:
    """The policy for connections to `config.sshd.port`, for an sshd of `version`: sshd_config.d/hatchway.conf."""

    def rule(why: str, *lines: str) -> None:
        text.extend(rule_lines(why, *lines, indent="    "))

    helper = f"{config.paths.libexec_dir}/authorized-keys"
    text = [
        MARKER,
        "# What a connection to Hatchway's port may do: SFTP, below one directory, and nothing else.",
        "# Connections to other ports are not touched. See sshd_config(5), Match.",
        "",
        f"Match LocalPort {config.sshd.port}",
    ]
    rule(
        "Only Hatchway's logins, which are all in this group and in no other. No account of the host can enter here, "
        "whatever its password or keys.",
        f"AllowGroups {config.ids.session_group}",
    )
    rule("Which of its own accounts the host lets in elsewhere says nothing of these.", "AllowUsers *")
    rule("root is in no such group; this says it twice.", "PermitRootLogin no")
    rule("Either a key or a password. Which of them a login has is decided by Hatchway.", "AuthenticationMethods any")
    rule(
        "Keys come from Hatchway alone: no file of any user is read for them, so nothing a container writes can let "
        "anybody in by itself.",
        "PubkeyAuthentication yes",
        "PubkeyAuthOptions none",
        "AuthorizedKeysFile none",
    )
    rule(
        "The helper asks Hatchway and prints the keys of this login. It runs as a user that owns nothing and can "
        "only reach that one socket.",
        f"AuthorizedKeysCommand {helper} {config.auth_socket} %u",
        f"AuthorizedKeysCommandUser {config.ids.keys_user}",
    )
    rule(
        "No certificate authority of the host is trusted here: a host certificate for a name must not open a "
        "container's volume.",
        "TrustedUserCAKeys none",
        "AuthorizedPrincipalsFile none",
        "AuthorizedPrincipalsCommand none",
    )
    if version >= SINCE_REQUIRED_RSA_SIZE:
        rule("Shorter RSA keys are within reach of an attacker.", "RequiredRSASize 2048")
    rule(
        "Passwords are asked for once and checked by PAM, that is by Hatchway. Keyboard-interactive would ask the "
        "same again in another form and confuse clients.",
        "PasswordAuthentication yes",
        "KbdInteractiveAuthentication no",
        "PermitEmptyPasswords no",
    )
    rule(
        "No other way in.",
        "HostbasedAuthentication no",
        "GSSAPIAuthentication no",
        "KerberosAuthentication no",
    )
    rule(
        "Clients may try several keys of an agent before the right one; from here on it is guessing.",
        "MaxAuthTries 6",
    )
    rule(
        "The session's root: a directory of root's that holds nothing but this login's volumes.",
        f"ChrootDirectory {config.mount_dir}/%u",
    )
    rule(
        "Whatever is asked for - shell, command, scp - the answer is SFTP, served by sshd itself: the root holds no "
        "program to run. No umask: each volume has its own. The extension left out looks names up inside the root, "
        "where there are none.",
        "ForceCommand internal-sftp -u 0 -P users-groups-by-id@openssh.com",
    )
    rule(
        "No tunnels of any kind: a login to a volume must not become a way into the host's network. The first line "
        "forbids them all; the others hold should it ever be overridden.",
        "DisableForwarding yes",
        "AllowTcpForwarding no",
        "AllowStreamLocalForwarding no",
        "AllowAgentForwarding no",
        "X11Forwarding no",
        "PermitTunnel no",
        "GatewayPorts no",
        "PermitOpen none",
        "PermitListen none",
    )
    rule("No terminal, and no file of the user's is run at login.", "PermitTTY no", "PermitUserRC no")
    rule("Nothing is written down for the session about how it came in.", "ExposeAuthInfo no")
    rule("sshd has nothing to say before login that would help anybody but a stranger.", "Banner none")
    rule("Programs that open several transfers on one connection stay below this.", "MaxSessions 10")
    rule(
        "A client that vanished is noticed after three minutes, so that its volumes can be unmounted.",
        "ClientAliveInterval 60",
        "ClientAliveCountMax 3",
    )
    if version >= SINCE_UNUSED_CONNECTION_TIMEOUT:
        rule("A login that opens no SFTP session is of no use and would count as one.", "UnusedConnectionTimeout 60")
    return "\n".join(text) + "\n"


def dedicated(config: Config, version: Version, policy_path: str, pid_file: str | None = None) -> str:
    """The configuration of the dedicated sshd of `version`, which includes the policy at `policy_path`.

    `pid_file` None means none is written. Both paths are absolute.
    """

    def rule(why: str, *lines: str) -> None:
        text.extend(rule_lines(why, *lines))

    text = [
        MARKER,
        "# Hatchway's own sshd: a process beside the host's, with its own port, keys and PAM service.",
        "# Here stands what sshd takes only globally; the policy is included at the end.",
    ]
    rule(
        "Never port 22, which stays the host's own.",
        f"Port {config.sshd.port}",
        *(f"ListenAddress {address}" for address in config.sshd.listen),
    )
    rule(
        "Host keys of its own: this service can move to another host with them, and the host's keys stay unread.",
        *(f"HostKey {config.sshd.host_key_dir}/{name}" for name in HOST_KEYS),
    )
    rule("Whoever starts this sshd knows its process.", f"PidFile {pid_file or 'none'}")
    rule("Passwords, and leave to enter for every kind of login, come from Hatchway through PAM.", "UsePAM yes")
    if version >= SINCE_PAM_SERVICE_NAME:
        rule(
            "Which file of the PAM directory is asked. Older versions use the name they were started by.",
            f"PAMServiceName {config.sshd.pam_service}",
        )
    rule("The one service. ForceCommand in the policy needs this line to exist.", "Subsystem sftp internal-sftp")
    rule("Time to log in, in seconds. Typing a password must fit in.", f"LoginGraceTime {config.sshd.login_grace_s}")
    rule(
        "Connections that have not logged in yet. One address (of IPv6, one /48, which is what a site gets) may hold a "
        "small part of them only, or a few attackers would lock everybody out.",
        f"MaxStartups {config.sshd.max_startups}",
        f"PerSourceMaxStartups {_per_source(config)}",
        "PerSourceNetBlockSize 32:48",
    )
    if version >= SINCE_PENALTIES:
        rule(
            "sshd slows down addresses that keep failing. Its defaults would shut out an office behind one address "
            "for a few mistyped passwords, and load balancers that only open the port. Generated passwords have 135 "
            "bits, so a slower guesser is no danger.",
            "PerSourcePenalties authfail:1s noauth:0s grace-exceeded:2s crash:90s max:60s min:15s",
            "PerSourcePenaltyExemptList 127.0.0.0/8,::1",
        )
    rule("Names would make a login wait for the network and are not used anywhere.", "UseDNS no")
    rule("Nothing is sent that is not SFTP.", "PrintMotd no", "PrintLastLog no")
    rule(
        "A client sets no environment: AcceptEnv is not given, and no file of the user's is read for it.",
        "PermitUserEnvironment no",
    )
    rule("The log names the keys that were tried.", "LogLevel VERBOSE")
    rule("The policy. Last, because its Match block reaches to the end.", f"Include {policy_path}")
    return "\n".join(text) + "\n"


def _per_source(config: Config) -> int:
    """PER_SOURCE, or, when that is less, a third of what all together may hold before sshd begins to refuse; but at
    least the ten of one client."""
    return min(PER_SOURCE, max(10, int(config.sshd.max_startups.split(":")[0]) // 3))


PACKAGED_PAM = "# A configuration file of the package hatchway: what you change here stays."


def pam_service(config: Config, marker: str = MARKER) -> str:
    """The PAM service file: <pam_dir>/<pam_service>. No account of the host can be used through it.

    `marker` is its first line: MARKER, or PACKAGED_PAM for the file that a package brings.
    """
    helper = f"{config.paths.libexec_dir}/pam {config.auth_socket}"

    def rule(why: str, *lines: str) -> None:
        text.extend(rule_lines(why, *lines))

    text = [
        marker,
        "# PAM for Hatchway's sshd. Every stage asks Hatchway; no password file, module or rule of the host takes",
        "# part, and nothing is included. `quiet`: the helper's path and status are not told to the client.",
    ]
    rule(
        "Password logins. The password reaches the helper on its standard input. Anything but success ends it.",
        f"auth [success=ok default=die] pam_exec.so quiet expose_authtok {helper}",
    )
    rule(
        "pam_exec has no answer to pam_setcred(3), which sshd calls next; this one has. No login that "
        "failed gets here.",
        "auth required pam_permit.so",
    )
    rule(
        "Every login, by key or password: may it enter now?",
        f"account [success=ok default=die] pam_exec.so quiet {helper}",
        "account required pam_permit.so",
    )
    rule(
        "Before the session starts: its volumes are mounted, or it does not start. Its end is told by the end of its "
        "process, which cannot be missed; the second line answers for that stage.",
        f"session [success=ok ignore=ignore default=die] pam_exec.so quiet type=open_session {helper}",
        "session required pam_permit.so",
    )
    rule(
        "Passwords are not changed here. Without this line PAM would use /etc/pam.d/other for that (pam.conf(5)).",
        "password required pam_deny.so",
    )
    return "\n".join(text) + "\n"


def signin_service(marker: str = MARKER) -> str:
    """The PAM service file by which operators sign in to the web pages: Config.signin_pam_path. `marker` as in
    `pam_service`."""

    def rule(why: str, *lines: str) -> None:
        text.extend(rule_lines(why, *lines))

    text = [
        marker,
        "# PAM for operators who sign in to Hatchway's web pages, with the password of their account on this host.",
        "# That they are operators is looked at before this. It may be made stricter (pam_faillock, pam_access, …); a",
        "# module that asks for a second thing besides the password cannot be answered.",
    ]
    rule(
        "Whose password is right, as this host knows it: LDAP, SSSD and the like come with it.", "@include common-auth"
    )
    rule(
        "Nobody while the host is being shut down; nobody whose account has expired or is locked by what keeps it. "
        "This stage is asked again and again while somebody is signed in.",
        "account required pam_nologin.so",
        "@include common-account",
    )
    rule(
        "No session is opened and no password changed here. Without these lines PAM would use /etc/pam.d/other for "
        "that (pam.conf(5)).",
        "session required pam_deny.so",
        "password required pam_deny.so",
    )
    return "\n".join(text) + "\n"


def packaged_policy() -> str:
    """sshd_config.d/hatchway.conf as it stands in the source tree."""
    return policy(PACKAGED, PACKAGED_VERSION)
