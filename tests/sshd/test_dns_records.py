"""OpenSSH believes the records that `hatchway export sshfp` gives, from a real name server."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnslib
import dnslib.server
from tests.sshd.running import running

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PATIENCE_S = 60


class _Zone(dnslib.server.BaseResolver):  # type: ignore[misc] # it has no types
    """A name, its address and its SSHFP records, in a zone that is said to be signed."""

    def __init__(self, name: str, records: str) -> None:
        self._name = name
        self._records = dnslib.RR.fromZone("\n".join(records.splitlines()))

    def resolve(self, request: Any, _handler: object) -> Any:
        reply = request.reply()
        reply.header.ad = 1
        kind = dnslib.QTYPE[request.q.qtype]
        if str(request.q.qname) == f"{self._name}." and kind == "A":
            reply.add_answer(*dnslib.RR.fromZone(f"{self._name}. 60 A 127.0.0.1"))
        if str(request.q.qname) == f"{self._name}." and kind == "SSHFP":
            reply.add_answer(*self._records)
        return reply


@contextlib.contextmanager
def _dns(name: str, records: str) -> Iterator[str]:
    """A server for it on an address of loopback."""
    address = "127.0.53.53"
    server = dnslib.server.DNSServer(_Zone(name, records), address=address, port=53)
    server.start_thread()
    try:
        yield address
    finally:
        server.stop()
        server.server.server_close()


def test_openssh_with_the_records_of_the_dns(tmp_path: Path) -> None:
    """It trusts the host key by them alone, and refuses one that they do not name."""
    name = "sftp.example.test"
    with running(INSTANCE, host=name) as made:
        made.enable(INSTANCE)
        records = made.command("export", "sshfp")["text"]
        assert records.count(f"{name}. IN SSHFP ") == 2
        script = (
            f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec sftp -F none -o VerifyHostKeyDNS=yes "
            "-o UserKnownHostsFile=none -o GlobalKnownHostsFile=none -o StrictHostKeyChecking=yes "
            f"-o IdentitiesOnly=yes -P {made.port} -i {made.keys / LOGIN} -b - {LOGIN}@{name}"
        )

        def connect(zone: str) -> subprocess.CompletedProcess[str]:
            with _dns(name, zone) as address:
                (tmp_path / "resolv.conf").write_text(f"nameserver {address}\noptions trust-ad edns0\n")
                return subprocess.run(
                    ["unshare", "--mount", "sh", "-c", script],
                    input="pwd\n", capture_output=True, text=True, timeout=PATIENCE_S, env=CLIENT, check=False,
                )  # fmt: skip

        done = connect(records)
        assert done.returncode == 0, done.stderr
        assert "Remote working directory: /data" in done.stdout
        forged = "".join(f"{line[:-8]}00000000\n" for line in records.splitlines())
        refused = connect(forged)
        assert refused.returncode == 255
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr
