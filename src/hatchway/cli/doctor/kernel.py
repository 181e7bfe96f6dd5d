"""The kernel: its version, mounts that follow no symlink, and FUSE."""

from __future__ import annotations

import os
import platform
import re
import stat
import sys
from collections.abc import Callable, Sequence

from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.kernel import mounts

OLDEST = (5, 14)
"""mount_setattr(2) knows MOUNT_ATTR_NOSYMFOLLOW since Linux 5.14."""

_UPGRADE = "run a kernel of 5.14 or newer (Debian 12, Ubuntu 22.04, RHEL 9 and later have one)"


def version(release: str | None = None) -> Finding:
    """Whether the kernel is new enough. `release` as from uname(2)."""
    release = release if release is not None else platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        return warning("kernel", f"version {release!r} is not understood", _UPGRADE)
    if (int(found[1]), int(found[2])) < OLDEST:
        return failed("kernel", f"Linux {release} is older than {OLDEST[0]}.{OLDEST[1]}", _UPGRADE)
    return ok("kernel", f"Linux {release}")


def containment(probe: Callable[[], None] = mounts.try_nosymfollow) -> Finding:
    """Whether the kernel makes the mounts that keep a session inside its volume."""
    name = "containment"
    try:
        probe()
    except PermissionError as exc:
        if os.geteuid() != 0:
            return warning(name, "not tried: only root can", "run 'hatchway doctor' as root")
        return failed(
            name,
            f"the kernel refuses a detached mount: {exc.strerror}",
            "give this system CAP_SYS_ADMIN: it looks like a container without the right to mount",
        )
    except OSError as exc:
        return failed(name, f"no mounts without symlinks: {exc.strerror}", _UPGRADE)
    return ok(name, "detached mounts that follow no symlink can be made")


def fuse_device(path: str = "/dev/fuse") -> Finding:
    """Whether FUSE can be used at all."""
    name = "/dev/fuse"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return failed(name, "is not there", "load the module: modprobe fuse")
    except OSError as exc:
        if os.geteuid() != 0:
            return warning(name, f"cannot be opened: {exc.strerror}", "run 'hatchway doctor' as root")
        return failed(
            name,
            f"cannot be opened: {exc.strerror}",
            "load the module (modprobe fuse); in a container, allow the device c 10:229",
        )
    try:
        device = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISCHR(device.st_mode):
        return failed(name, "is no device", "remove it and make the device: mknod /dev/fuse c 10 229")
    return ok(name, "can be opened")


def fuse_library(execute: Callable[[Sequence[str]], Ran] = run, how: Advice = HERE) -> Finding:
    """Whether pyfuse3 and the libfuse3 it was built against load: in a process of its own, as workers do."""
    name = "libfuse3"
    ran = execute([sys.executable, "-I", "-c", "import pyfuse3; print(pyfuse3.__version__)"])
    if ran.status != 0:
        reason = ran.output.splitlines()[-1] if ran.output else f"exit status {ran.status}"
        return failed(
            name,
            f"pyfuse3 does not load: {reason}",
            how.reinstall(
                "install libfuse3 and build pyfuse3 on this very host (apt install fuse3 libfuse3-dev pkg-config gcc "
                "python3-dev; pip install --no-binary pyfuse3 pyfuse3)"
            )
            + (": of the package the one that is built for this release of Debian" if how.packaged else ""),
        )
    return ok(name, f"pyfuse3 {ran.output} loads")
