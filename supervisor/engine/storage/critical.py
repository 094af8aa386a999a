"""Critical sections (PostgreSQL's START_CRIT_SECTION).

From the first change of a page until its record is in the WAL buffers and its LSN is stored, an error
must not be survived: the page would differ from what the WAL says, and somebody would write it out.
`with CRITICAL:` turns any Exception into Panic. What is not an Exception (the end of the process, the
kill of a simulated one) passes through: nobody lives to see the page.
"""

from __future__ import annotations

from types import TracebackType

from supervisor.errors import Panic


class CriticalSection:
    """A context manager without state, so one object serves everybody; about 0.1 us."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to do: only the way out matters."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise Panic from an Exception that is not one already."""
        if isinstance(error, Exception) and not isinstance(error, Panic):
            raise Panic(f"error in a critical section: {error!r}") from error


CRITICAL = CriticalSection()
