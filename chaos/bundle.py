"""A run packed for a bug report: what somebody else needs to judge, explain and replay it, in one file.

Owns the table of what goes in, what stays out and why, and the MANIFEST that says so. It follows no symbolic link, packs
nothing that is no part of a run, no variable of the environment beside those named here, and changes nothing in the run
directory. The same directory gives the same bytes, but for what the machine is found to permit.

Of a long run the evidence of the cycles that matter goes in (`chaos.excerpt`); run.json then says so, and nobody judges
it: what was left out would look like losses.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

import msgspec

from chaos.archive import Archive
from chaos.doctor import Place, diagnose
from chaos.excerpt import Stretch, lines_within, stretches
from chaos.manifest import Entry, Manifest
from chaos.phases import cycles_of
from reports.rundir import RunDirectory, RunInfo

SMALL_BYTES = 64 * 1024**2
"""Evidence up to this goes in whole: it is a tenth of it when compressed, which an issue tracker takes."""
VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONDEVMODE")
"""The variables of the environment that are packed: what changes how Python runs, and nothing that could be secret."""

_WHOLE = frozenset(
    {"run.json", "verdict.json", "details.json", "report.html", "junit.xml", "summary.md", "server.log", "points.map"}
)
_EVIDENCE = frozenset({"events", "history"})
_HARNESS = "events/harness.jsonl"
_DATA = "pgdata"
_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _DATA: "the data directory: --data packs it",
        "code": "the server with the planted defect, which a replay plants again by its name in run.json",
        "template": "a cluster to copy, which every run makes anew",
    }
)
_STRANGER = "no part of a run"
_HIDDEN = "(left out)"
_SECRET = "its value may be a secret, and a replay needs it"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle is to hold: the data directory too, all evidence however much it is, what doctor finds."""

    data: bool = False
    everything: bool = False
    environment: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """A file or directory of the run, by its name within it; its size in bytes."""

    name: str
    path: Path
    size: int
    directory: bool = False

    @property
    def evidence(self) -> bool:
        """Whether a part of it will do in an excerpt. Of the harness's record all is needed: a replay begins where the
        cycle's cluster did."""
        return not self.directory and self.name.partition("/")[0] in _EVIDENCE and self.name != _HARNESS


@dataclass(slots=True)
class Contents:
    """What goes into a bundle, and what stays out: name and reason."""

    pieces: list[Piece] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def evidence_bytes(self) -> int:
        return sum(piece.size for piece in self.pieces if piece.evidence)

    @property
    def bytes(self) -> int:
        return sum(piece.size for piece in self.pieces)


def survey(run: RunDirectory, wanted: Wanted) -> Contents:
    """What of a run directory goes into its bundle, in order of name."""
    contents = Contents()
    packed = _WHOLE | _EVIDENCE | ({_DATA} if wanted.data else set())
    present = sorted(path.name for path in run.path.iterdir())
    for name in present:
        if name in packed:
            _collect(run.path / name, name, contents)
        else:
            contents.left_out.append((name, _REASONS.get(name, _STRANGER)))
    contents.left_out += [(name, "is not there") for name in sorted(packed - set(present))]
    return contents


def _collect(path: Path, name: str, contents: Contents) -> None:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        contents.pieces.append(Piece(name, path, 0, directory=True))
        for inner in sorted(path.iterdir()):
            _collect(inner, f"{name}/{inner.name}", contents)
    elif stat.S_ISREG(status.st_mode):
        contents.pieces.append(Piece(name, path, status.st_size))
    else:
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "neither a file nor a directory"
        contents.left_out.append((name, f"{what}, which is not followed"))


def pack(
    run: RunDirectory,
    path: Path,
    wanted: Wanted,
    contents: Contents,
    *,
    progress: Progress,
    small_bytes: int = SMALL_BYTES,
) -> Manifest:
    """Write the bundle to `path`. `progress` is told how many bytes of the run were read.

    Raises FileExistsError when there is something at `path`, OSError, RunDirectoryError; nothing is left of it then.
    """
    info = run.read_info()
    chosen = None
    if contents.evidence_bytes > small_bytes and not wanted.everything:
        verdict = run.read_verdict() if run.verdict_json.exists() else None
        chosen = stretches(cycles_of(run.harness_records()), verdict)
    root = run.path.resolve().name
    # Of an excerpt that was unpacked and is packed again, the cycles stay those that it has.
    cycles = info.excerpt or ("" if chosen is None else ", ".join(map(str, chosen)) or "none")
    manifest = Manifest(root, cycles, left_out=list(contents.left_out))
    with Archive(path) as archive:
        if wanted.environment:
            found = environment(path.absolute().parent, info)
            archive.add_bytes(f"{root}/environment.json", found)
            manifest.packed.append(Entry("environment.json", len(found)))
        for piece in contents.pieces:
            if piece.directory:
                archive.add_directory(f"{root}/{piece.name}")
            else:
                with _opened(piece.path) as file:
                    _add(archive, piece, file, chosen, progress, manifest)
        archive.add_bytes(f"{root}/MANIFEST", str(manifest).encode())
    return manifest


def _add(
    archive: Archive,
    piece: Piece,
    file: IO[bytes],
    chosen: Sequence[Stretch] | None,
    progress: Progress,
    manifest: Manifest,
) -> None:
    """Add a file of the run, whole or the excerpt of it (`chosen` is not None), and note it in the manifest."""
    name = f"{manifest.run}/{piece.name}"
    if piece.name == "run.json":
        content, hidden = plan_to_show(file.read(), manifest.cycles)
        archive.add_bytes(name, content)
        progress(piece.size)
        manifest.packed.append(Entry(piece.name, len(content)))
        manifest.left_out += [(f"{variable}, a variable of the plan in run.json", _SECRET) for variable in hidden]
    elif chosen is None or not piece.evidence:
        archive.add(name, _Told(file, progress), piece.size)
        manifest.packed.append(Entry(piece.name, piece.size))
    # An archive needs a size before the content, and an excerpt may be larger than memory.
    else:
        with tempfile.TemporaryFile(dir=archive.path.parent) as part:
            part.writelines(lines_within(_told(file, progress), chosen))
            size = part.tell()
            part.seek(0)
            if size:
                archive.add(name, part, size)
                manifest.packed.append(Entry(piece.name, size, of=piece.size))
            else:
                manifest.left_out.append((piece.name, "it has no record in these cycles"))


def plan_to_show(run_json: bytes, cycles: str) -> tuple[bytes, list[str]]:
    """run.json as it is packed: with the cycles of an excerpt, and without the values of variables that a plan of a
    command sets; their names are the second answer. Unchanged where there is nothing to do."""
    info: dict[str, Any] = msgspec.json.decode(run_json)
    variables = info.get("plan", {}).get("campaign", {}).get("environment", {})
    if not variables and not cycles:
        return run_json, []
    hidden = sorted(variables)
    variables.update(dict.fromkeys(hidden, _HIDDEN))
    info["excerpt"] = cycles
    return msgspec.json.format(msgspec.json.encode(info, order="sorted"), indent=2) + b"\n", hidden


def environment(directory: Path, info: RunInfo) -> bytes:
    """What `crashbed doctor` finds about a directory and the run's backends, and the named variables, as JSON."""
    # A command has no backends: doctor's limits are then those of its smallest campaign.
    diagnosis = diagnose(Place(directory, info.plan.get("campaign", {}).get("backends", 1)))
    found = {
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "doctor": {"trusted": diagnosis.trusted, "summary": diagnosis.summary, "lines": diagnosis.lines},
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def _opened(path: Path) -> IO[bytes]:
    """A file that is no symbolic link, not even one that has come since the survey."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _told(file: IO[bytes], progress: Progress) -> Iterator[bytes]:
    for line in file:
        progress(len(line))
        yield line


class _Told:
    """A file whose reading is told to `progress`."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress(len(data))
        return data
