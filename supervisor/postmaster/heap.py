"""The postmaster's heap, which every child begins with: what makes a fork of it cheap.

A fork copies a page table entry for each page that was touched, the child and then the postmaster take a fault for each
of them that they write (a reference count is enough), and the exit gives all of it back. That, and not what children
do, is most of what a crash costs, because a crash forks and ends a dozen processes. So: few modules (a test has the
list; `threading` would also run a hook of its own in every child), and a heap in few and large pages.

Nothing here changes what the server does. Where the kernel or the interpreter offers less, forks only cost more.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_HUGE_PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1


def settle() -> None:
    """Everything is imported: make the heap ready to be forked.

    Frozen, so that the collector no longer writes to objects that all children share (private memory per child falls
    from 10 MB to 1.7 MB); what is free given back; the rest moved into large pages.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    gc.collect()
    gc.freeze()
    libc.malloc_trim(ctypes.c_size_t(0))
    _use_large_pages(libc, Path("/proc/self/maps").read_text())


def _use_large_pages(libc: ctypes.CDLL, maps: str) -> None:
    """Ask for 2 MiB pages under the heap; a kernel that cannot or will not leaves it as it is.

    Only pages that lie within a writable anonymous mapping as a whole, so that nothing grows. A fork then copies one
    entry for 512. Who writes splits the large page for itself and copies 4 KiB, as before.
    """
    for line in maps.splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        begin, end = (int(bound, 16) for bound in span.split("-"))
        first = -(-begin // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        length = (end - first) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
        if length > 0:
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_COLLAPSE)
