"""A certificate of our own, made at the first start.

Browsers warn of it once, and what crosses the network is encrypted.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hatchway.errors import ConfigError, HostError

LIFE_DAYS = 800
"""Some systems take no certificate that is valid for longer."""

RENEW_DAYS = 30
"""It is made anew when it is valid for less than that."""


def own(directory: Path, hosts: Iterable[str]) -> tuple[Path, Path]:
    """Certificate and key in `directory`, made when they are not there, or not valid for long. Raises HostError."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if not (key.exists() and _is_fresh(certificate)):
            _make(certificate, key, [socket.gethostname(), "localhost", *hosts])
    except OSError as exc:
        raise HostError(f"the certificate of the web pages cannot be made: {exc}") from None
    return certificate, key


def fingerprint(certificate: Path) -> str:
    """The SHA-256 fingerprint as browsers show it. Raises ConfigError for what is no certificate."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{certificate}: no certificate: {exc}") from None
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _is_fresh(path: Path) -> bool:
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return False
    return ends - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=RENEW_DAYS)


def _make(certificate: Path, key: Path, hosts: Iterable[str]) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hatchway")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=LIFE_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_name(host) for host in dict.fromkeys(hosts) if host]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key first: a certificate that is there says that there is one.
    _write(key, pem, 0o600)
    _write(certificate, built.public_bytes(serialization.Encoding.PEM), 0o644)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes, mode: int) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    new.replace(path)
