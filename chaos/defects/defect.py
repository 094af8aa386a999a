"""What a planted defect is, and how it is put into a copy of the code.

An edit names the text it replaces, whole and once: when the server's code has moved on, planting fails loudly
instead of producing a server without the defect.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

# What a server process imports.
PACKAGES = ("supervisor", "workloads")


class StaleDefectError(Exception):
    """The text that a defect replaces is not there, or not once: the defect must be written anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one file of the code."""

    path: str
    find: str
    replace: str


@dataclass(frozen=True, slots=True)
class Defect:
    """One bug: `title` says what is wrong in words, `caught_by` which oracle must find it."""

    name: str
    title: str
    caught_by: str
    edits: tuple[Edit, ...]

    def plant(self, source: Path, destination: Path) -> Path:
        """Copy the server's code and put the defect in; returns the copy, which is whole as soon as it is there.

        Raises StaleDefectError.
        """
        unfinished = destination.with_name(f"{destination.name}.new")
        for package in PACKAGES:
            shutil.copytree(source / package, unfinished / package, ignore=shutil.ignore_patterns("__pycache__"))
        for edit in self.edits:
            path = unfinished / edit.path
            text = path.read_text()
            if text.count(edit.find) != 1:
                raise StaleDefectError(
                    f"defect {self.name}: {edit.path} holds {text.count(edit.find)} times what it replaces, not once"
                )
            path.write_text(text.replace(edit.find, edit.replace))
        unfinished.rename(destination)
        return destination
