"""Standing behind everybody else: for the processor and the disk.

On a disk that is busy all the time the idle class may hardly ever be served: then a count takes long, and nothing waits
for it. Not SCHED_IDLE as well: whoever counts also holds memory and a mount.
Sources: nice(2), ioprio_set(2), include/uapi/linux/ioprio.h.
"""

from __future__ import annotations

import os

from hatchway.kernel.libc import MACHINE, syscall

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS = 1
_CLASS_IDLE = 3 << 13


def idle() -> None:
    """This process gets what others leave, for good. Raises OSError."""
    os.nice(19)
    syscall(_IOPRIO_SET[MACHINE], "ioprio_set", _WHO_PROCESS, 0, _CLASS_IDLE)
