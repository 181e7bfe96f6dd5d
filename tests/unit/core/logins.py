"""A login of the stage, and those who want in by it."""

from __future__ import annotations

import base64

from tests.unit.core.stage import Stage, snapshot, volume

from hatchway.credentials import keys
from hatchway.credentials.keys import KeyPair
from hatchway.wire.admin import Enable
from hatchway.wire.entry import AllowVolumeKeys, ExportKey, ShowPassword
from hatchway.wire.host import KeyFile, KeyFiles

INSTANCE = "shop/web/1"
LOGIN = "shop-web-1"
SSH = volume("/home/u/.ssh")


async def shared(stage: Stage) -> str:
    """Share a volume. Gives the password."""
    await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
    return str((await stage.do(ShowPassword(INSTANCE))).password)


async def by_password(stage: Stage, password: str, address: str = "192.0.2.1", port: int = 1) -> bool:
    """Whether a client may enter with `password`, from first to last."""
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": address, "connection": f"{address} {port} x 2022"}
    for stage_of_pam, more in (
        ("auth", {"password": password}),
        ("account", {}),
        ("open", {"authinfo": "password\n"}),
    ):
        if not (await stage.ask(stage_of_pam, **fields, **more))[0]:
            return False
    return True


async def by_key(stage: Stage, public: str, address: str = "192.0.2.1") -> bool:
    """Whether a client may enter with a key that sshd was told of."""
    _ok, lines = await stage.ask("keys", login=LOGIN)
    kind, blob = public.split()[:2]
    if f"{kind} {blob}" not in lines:
        return False
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": address}
    entered = (await stage.ask("account", **fields))[0]
    return entered and (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]


async def own_key(stage: Stage) -> str:
    return str((await stage.do(ExportKey(INSTANCE))).public)


def newest(stage: Stage) -> str:
    return list(stage.host.sessions)[-1]


def in_hardware(comment: str) -> str:
    """A public key as of an authenticator (PROTOCOL.u2f of OpenSSH)."""
    point = base64.b64decode(keys.generate_ed25519("").public.split()[1])[-32:]
    kind = b"sk-ssh-ed25519@openssh.com"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, point, b"ssh:"))
    return f"{kind.decode()} {base64.b64encode(blob).decode()} {comment}"


def key_files(*lines: str, name: bytes = b"authorized_keys") -> KeyFiles:
    return KeyFiles(token=b"1", files=(KeyFile(name, "\n".join(lines).encode()),))


async def with_a_volume(stage: Stage) -> None:
    """Let the instance have a volume for keys, and share its other one."""
    await stage.core.feed(snapshot(volume("/data"), SSH))
    await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))


async def with_a_key(stage: Stage) -> KeyPair:
    """The same, with a key in that volume that counts."""
    await with_a_volume(stage)
    pair = keys.generate_ed25519("in the volume")
    stage.host.key_files[SSH.source or ""] = key_files(pair.public)
    await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
    return pair
