"""What a bundle says of itself: what is in it, how much of it, and what was left out and why.

For a person: the archive's own listing is the machine's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import supervisor

_SHOWN = 3
_WARNING = "server.log and the plan are as they were written: look through them before others do"


@dataclass(frozen=True, slots=True)
class Entry:
    """A packed file; `of` is its size in the run when a part of it is packed. Sizes in bytes."""

    name: str
    size: int
    of: int | None = None

    def __str__(self) -> str:
        return f"{self.size:14,d}  {self.name}" + (f", of {self.of:,d}" if self.of is not None else "")


@dataclass(slots=True)
class Manifest:
    """A bundle of `run`. `cycles` are those of an excerpt, empty when all evidence is there."""

    run: str
    cycles: str = ""
    packed: list[Entry] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def evidence(self) -> str:
        """What can be done with it."""
        if not self.cycles:
            return "evidence: whole, it can be judged and explained"
        return (
            f"evidence: of cycles {self.cycles} alone, it cannot be judged or explained; verdict and report are of the "
            "whole run"
        )

    @property
    def summary(self) -> str:
        """The manifest without the names of what is packed."""
        size = sum(entry.size for entry in self.packed)
        return self._text([f"packed: {len(self.packed)} files, {size:,d} bytes"], most=_SHOWN)

    def __str__(self) -> str:
        return self._text(["packed, in bytes:", *map(str, self.packed)], most=len(self.left_out))

    def _text(self, packed: list[str], most: int) -> str:
        """The lines; of what was left out for one reason at most so many names."""
        lines = [f"run {self.run}, packed by crashbed {supervisor.VERSION}", self.evidence, *packed]
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left_out:
            by_reason.setdefault(why, []).append(name)
        lines += ["left out:"] if by_reason else []
        for why, names in by_reason.items():
            more = f" and {len(names) - most} more" if len(names) > most else ""
            lines.append(f"  {', '.join(names[:most])}{more}: {why}")
        return "\n".join([*lines, _WARNING]) + "\n"
