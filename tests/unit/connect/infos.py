"""Connection information as the daemon tells it."""

from __future__ import annotations

from typing import Any

from hatchway.model import InstanceKey, InstanceState, VolumeKind
from hatchway.wire.admin import Access, ConnectionInfo, HostKey, InstanceStatus, VolumeStatus
from hatchway.wire.entry import ConditionsStatus, PasswordKind

ED25519 = HostKey(
    "ssh-ed25519",
    "SHA256:Gi3KuK9EVU/2nIhz1XD3oXUs3MH/zqKSaJbMD39pVeA",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmpBK8RpY2fAPCVrEl24nTcWzmvOzgOk9yGSEgFv0sg",
)
"""A key's public half, and its fingerprint as `ssh-keygen -l` says it."""

WEB = InstanceKey("shop", "web", 1)

HOSTILE = [
    "a b",
    "'",
    '"',
    "`id`",
    "$(id)",
    "%h%%d%n",
    "a@b",
    "a:b",
    "a;b",
    "a\nHost *\n  ProxyCommand id",
    "\u202ecod.exe",
    "<Pass>&amp;]]>",
    "[x]\ntype = local",
    "#;=\\",
    "\x1b]0;x\x07",
    "\r",
    "ü\N{PILE OF POO}",
    "-oProxyCommand=id",
    "x" * 200,
]
"""Names and paths that somebody gives a container or volume who wants more than to name it."""


def volume(path: str, access: Access = Access.READ_WRITE) -> VolumeStatus:
    """A named volume that is found at its path."""
    return VolumeStatus(
        path=path,
        name="work",
        kind=VolumeKind.VOLUME,
        driver="local",
        read_only=False,
        access=access,
        session_path=None if access is Access.OFF else path,
    )


def info(*volumes: str, key: InstanceKey = WEB, **more: Any) -> ConnectionInfo:
    """How to connect to shop/web/1, its password hidden."""
    login = more.get("login", "shop-web-1")
    fields: dict[str, Any] = {
        "instance": InstanceStatus(
            key=key,
            state=InstanceState.RUNNING,
            runtime_name="shop-web-1",
            image="nginx",
            user="",
            present=True,
            login=login,
            volumes=tuple(volume(path) for path in volumes),
        ),
        "host": "sftp.example.org",
        "port": 2022,
        "login": login,
        "start_directory": "/home/work",
        "password_kind": PasswordKind.RAW,
        "password": None,
        "key_fingerprint": "SHA256:abc",
        "key_public": "ssh-ed25519 AAAA",
        "host_keys": (ED25519,),
        "conditions": ConditionsStatus(
            login=login,
            allowed_from=(),
            expires_at=None,
            sessions_max=None,
            sessions_default=32,
            locked_at=None,
            locked_why="",
        ),
        **more,
    }
    return ConnectionInfo(**fields)


HIDDEN = info()
SHOWN = info(password="se/same")
HASHED = info(password_kind=PasswordKind.HASHED)
KEY_ONLY = info(password_kind=PasswordKind.NONE)
NEITHER = info(password_kind=PasswordKind.NONE, key_fingerprint=None, key_public=None, keys=1)
PASSWORD_ONLY = info(key_fingerprint=None, key_public=None)
