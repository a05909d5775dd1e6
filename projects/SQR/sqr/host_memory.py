"""Memory of CPU tensors."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h: option and value
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _GROW_BY = 2**31 - 1, 256 << 20


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors instead of returning it to the system.

    By default glibc maps every large tensor and unmaps it when freed, which causes hundreds of thousands of page faults
    per training step. The setting holds until the process ends and affects all its allocations, so commands apply it,
    not the library.

    Returns:
        Whether it was applied: only with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROW_BY))
    return all(mallopt(option, value) == 1 for option, value in settings)
