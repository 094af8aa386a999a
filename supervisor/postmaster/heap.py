"""The postmaster's heap, which every child begins with: what makes a fork of it cheap.

A fork copies a page table entry for each page that was touched, the child and then the postmaster take a fault for each
of them that they write (a reference count is enough), and the exit gives all of it back. That, and not what children
do, is most of what a crash costs, because a crash forks and ends a dozen processes. So: nothing runs in a child that
need not, and the heap lies in few and large pages.

Nothing here changes what the server does. Where the kernel or the interpreter offers less, forks only cost more.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HUGE_PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1


@contextmanager
def without_fork_hooks() -> Iterator[None]:
    """Modules imported in here register nothing that would run at a fork.

    Meant for `threading` alone, which protobuf imports: its hook makes new locks for threads that other threads of the
    parent may have held. There is one thread at every fork (`launch` looks), so that it has nothing to mend, and it
    costs each child 0.3 ms, a fifth of a fork. `random` keeps its hook, which gives the child another seed.
    """
    register = os.register_at_fork

    def ignore(
        *,
        before: Callable[[], object] | None = None,
        after_in_child: Callable[[], object] | None = None,
        after_in_parent: Callable[[], object] | None = None,
    ) -> None:
        """Register nothing."""

    setattr(os, "register_at_fork", ignore)  # noqa: B010 - a type checker refuses the plain assignment
    try:
        yield
    finally:
        setattr(os, "register_at_fork", register)  # noqa: B010


def settle() -> None:
    """Everything is imported: make the heap ready to be forked.

    Frozen, so that the collector no longer writes to objects that all children share (private memory per child falls
    from 10 MB to 1.7 MB), then moved into large pages.
    """
    gc.collect()
    gc.freeze()
    _use_large_pages(Path("/proc/self/maps").read_text())


def _use_large_pages(maps: str) -> None:
    """Ask for 2 MiB pages under the heap; a kernel that cannot or will not leaves it as it is.

    Only pages that lie within a writable anonymous mapping as a whole, so that nothing grows. A fork then copies one
    entry for 512. Who writes splits the large page for itself and copies 4 KiB, as before.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for line in maps.splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        begin, end = (int(bound, 16) for bound in span.split("-"))
        first = -(-begin // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        length = (end - first) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
        if length > 0:
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_COLLAPSE)
