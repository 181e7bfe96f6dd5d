"""The directories of a login's root that sshd chroots into: root-owned, never writable, on hostd's own tmpfs.

Mount points have mode 0: what is not covered by a mount cannot be listed. Concurrency: changed under the root's lock.
"""

from __future__ import annotations

import os
import stat

from hatchway.errors import HostError
from hatchway.kernel import files, mounts


class Skeleton:
    """The directories at and below `directory`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def make(self, path: str) -> None:
        """All directories down to the mount point, not writable by others, whatever our umask.

        Nobody in a session sees an empty directory where a volume is to be, or was: the mount point has mode 0.
        """
        current, target = self.directory, f"{self.directory}{path}"
        for part in ["", *path.strip("/").split("/")]:
            current = f"{current}/{part}" if part else current
            mode = 0 if current == target else 0o755
            try:
                os.mkdir(current, mode)
            except FileExistsError:
                if current == target or not stat.S_IMODE(os.lstat(current).st_mode):
                    os.chmod(current, mode)
            else:
                os.chmod(current, mode)

    def open(self, target: str) -> int:
        """A descriptor (O_PATH) of the directory `target`. The way may lead through a worker. Raises HostError."""
        root = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = os.fsencode(target[len(self.directory) + 1 :])
            resolve = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS
            return files.openat2(root, name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, resolve)
        except OSError as exc:
            raise HostError(f"the place of {target} cannot be opened: {exc.strerror}") from exc
        finally:
            os.close(root)

    def remove(self, path: str) -> None:
        """Remove a mount point and the parents it leaves empty, but not the root itself."""
        parts = path.strip("/").split("/")
        mounted = {entry.target for entry in mounts.mount_table()}
        while parts:
            directory = f"{self.directory}/{'/'.join(parts)}"
            if directory in mounted:
                return
            try:
                os.rmdir(directory)
            except OSError:
                return
            parts.pop()

    def clear(self) -> None:
        """Remove all of it that is not mounted."""
        remove_tree(self.directory, {entry.target for entry in mounts.mount_table()})


def remove_tree(directory: str, mounted: set[str]) -> None:
    """Remove the empty directories at and below `directory`, without touching anything in `mounted`."""
    if directory in mounted:
        return
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        remove_tree(f"{directory}/{name}", mounted)
    try:
        os.rmdir(directory)
    except OSError:
        pass  # something is mounted below it
