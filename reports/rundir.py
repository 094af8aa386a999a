"""The run directory: what a run leaves behind, and all that judging and reporting may look at.

Owns the layout, the names in it, and the writing of what the harness itself records; readers for everything.
The files that server processes write (`events/server.jsonl`, `server.log`, `history/<pid>.jsonl`) are written
by `supervisor.log` and `workloads.history` at the paths given here; tests bind the two sides.

    out/<UTC time>-<seed>/
        run.json                    seed, plan, settings, versions, host, stop rule, exit
        events/kernel.jsonl         the witness' account
        events/server.jsonl         the server's own account: a claim, never evidence
        events/harness.jsonl        what the harness did: cycles, faults, judgements
        history/<process>.jsonl     what each worker asked and was told
        history/observed.jsonl      what the recovered server was seen to hold
        points.map  server.log      coverage of points; the server's log
        verdict.json                what the judge found
        details.json                what the report draws beside the verdict
        report.html  junit.xml  summary.md
        pgdata/                     kept on failure
        template/                   a cluster to copy, while the run lasts; what it leaves, the next run removes

Append-only while the run lasts, and readable when the harness was SIGKILLed at any moment: the files that
are rewritten (run.json, verdict.json, details.json) are replaced whole. It never judges, and it never imports what would
load a large library: the harness imports it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reports.details import Details
from reports.records import RecordReader, RecordWriter, RunDirectoryError, read_records, unusable
from reports.verdict import SCHEMA, Verdict

RESUMED = "resumed"
"""The harness's record that begins another sitting; it keeps the `judged_until_ns` of the one before."""
S = TypeVar("S", bound=msgspec.Struct)
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+(-[0-9]+)?")

__all__ = ["RESUMED", "RunDirectory", "RunDirectoryError", "RunInfo", "Sitting", "sweep"]


class RunInfo(msgspec.Struct, kw_only=True):
    """run.json: what a run is, so that it can be understood and repeated from the directory alone.

    Written when the run begins and again when it ends; `finished` and `exit_code` stay null when the harness
    was killed before it could. `judged_until_ns` is set when the disk became full: what server and harness recorded
    from then on (CLOCK_MONOTONIC) has holes that nobody can see, and is not judged. `excerpt` names the cycles whose
    evidence is here, in a bundle that holds no more of a long run than that.
    """

    seed: int
    started: str
    command: list[str] = []
    target: str = ""
    plan: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    host: dict[str, Any] = {}
    stop_rule: str = ""
    finished: str | None = None
    exit_code: int | None = None
    judged_until_ns: int | None = None
    excerpt: str = ""
    schema: int = SCHEMA


class RunDirectory:
    """One run's directory. Make a new one with `create`, open an existing one with `open`."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, base: Path | str, seed: int, *, now: datetime | None = None) -> RunDirectory:
        """A new, empty run directory below `base`, named by the time in UTC and the seed.

        run.json is there from the start, so that whatever happens next the directory tells what it is. A
        second run of the same second and seed gets `-2` appended. Raises RunDirectoryError.
        """
        moment = (now or datetime.now(UTC)).astimezone(UTC)
        name = f"{moment:%Y%m%dT%H%M%SZ}-{seed}"
        base = Path(base)
        try:
            base.mkdir(parents=True, exist_ok=True)
            path = _make_unused(base, name)
            (path / "events").mkdir()
            (path / "history").mkdir()
        except OSError as error:
            raise unusable(error, "make a run directory in", base) from error
        run = cls(path)
        run.write_info(RunInfo(seed=seed, started=utc_text(moment)))
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """The run directory at `path`; a path to its report or its run.json will do as well.

        Raises RunDirectoryError when there is none, saying what was found instead and what to do.
        """
        path = Path(path)
        if path.is_file() and (path.parent / "run.json").is_file():
            path = path.parent
        if not path.exists():
            raise RunDirectoryError(f"{path} does not exist: give the directory of a run, as in out/<time>-<seed>")
        if not path.is_dir():
            raise RunDirectoryError(f"{path} is not a directory: give the directory of a run")
        if not (path / "run.json").is_file():
            if _NAME.fullmatch(path.name):
                raise RunDirectoryError(
                    f"{path} is not a run directory (it has no run.json): its run ended before anything was recorded"
                )
            inside = sorted(child.name for child in path.iterdir() if (child / "run.json").is_file())
            hint = (
                f"it holds {len(inside)} run{'s' if len(inside) > 1 else ''}: did you mean {path / inside[-1]}?"
                if inside
                else "give a directory that `crashbed run` made, as in out/<time>-<seed>"
            )
            raise RunDirectoryError(f"{path} is not a run directory (it has no run.json): {hint}")
        return cls(path)

    # Where things are.

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def kernel_events(self) -> Path:
        return self.path / "events" / "kernel.jsonl"

    @property
    def server_events(self) -> Path:
        return self.path / "events" / "server.jsonl"

    @property
    def harness_events(self) -> Path:
        return self.path / "events" / "harness.jsonl"

    @property
    def history(self) -> Path:
        """The directory that every process under test writes its own history file in."""
        return self.path / "history"

    @property
    def observed(self) -> Path:
        return self.path / "history" / "observed.jsonl"

    @property
    def points_map(self) -> Path:
        return self.path / "points.map"

    @property
    def server_log(self) -> Path:
        return self.path / "server.log"

    @property
    def verdict_json(self) -> Path:
        return self.path / "verdict.json"

    @property
    def details_json(self) -> Path:
        return self.path / "details.json"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def junit_xml(self) -> Path:
        return self.path / "junit.xml"

    @property
    def summary_md(self) -> Path:
        return self.path / "summary.md"

    @property
    def pgdata(self) -> Path:
        return self.path / "pgdata"

    @property
    def template(self) -> Path:
        return self.path / "template"

    @property
    def code(self) -> Path:
        """The copy of the server's code with a planted defect: it is what was tested, and kept."""
        return self.path / "code"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one that writes this run. Raises RunDirectoryError when another process is.

        The lock is on the directory itself and dies with this process, however it ends; no child inherits it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirectoryError(
                    f"{self.path} is being written by a run that has not ended: wait for it"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def history_files(self) -> list[Path]:
        """The history file of every process, without observed.jsonl, in order of name."""
        return sorted(path for path in self.history.glob("*.jsonl") if path != self.observed)

    # What the harness writes while the run lasts.

    def kernel_writer(self) -> RecordWriter:
        """For the witness, the only writer of events/kernel.jsonl."""
        return RecordWriter(self.kernel_events)

    def harness_writer(self) -> RecordWriter:
        return RecordWriter(self.harness_events)

    def observed_writer(self) -> RecordWriter:
        return RecordWriter(self.observed)

    # What judging and reporting read.

    def kernel_records(self) -> RecordReader[dict[str, Any]]:
        return read_records(self.kernel_events, self._keeps)

    def server_records(self) -> RecordReader[dict[str, Any]]:
        return read_records(self.server_events, self._keeps)

    def harness_records(self) -> RecordReader[dict[str, Any]]:
        return read_records(self.harness_events, self._keeps)

    def observed_records(self) -> RecordReader[dict[str, Any]]:
        return read_records(self.observed, self._keeps)

    def insist_on_whole(self) -> None:
        """Raises RunDirectoryError when a part of the evidence was left out: what is missing would be taken for lost."""
        cycles = self.read_info().excerpt
        if cycles:
            raise RunDirectoryError(
                f"{self.path} holds the evidence of cycles {cycles} alone, which cannot be judged or explained: its verdict "
                "and report are of the whole run, which `crashbed bundle --all` packs"
            )

    def covers(self, t_ns: int) -> bool:
        """Whether what was recorded at a time is read: of a whole run, all."""
        return True

    def _keeps(self, record: dict[str, Any]) -> bool:
        return self.covers(record.get("t", 0))

    def sittings(self) -> list[Sitting]:
        """The parts of the run, one for each harness that worked on it: one, unless it was resumed.

        Raises RunDirectoryError.
        """
        begins = [record for record in self.harness_records() if record["ev"] == RESUMED]
        since = [None, *(record["t"] for record in begins)]
        until = [record.get("judged_until_ns") or record["t"] for record in begins]
        bounds = zip(since, [*until, self.read_info().judged_until_ns], strict=True)
        return [Sitting(self.path, first, last) for first, last in bounds]

    def history_records(self) -> Sequence[RecordReader[dict[str, Any]]]:
        """One reader per process: each process' records are in order, those of two are not comparable."""
        return [read_records(path) for path in self.history_files()]

    # The files that are replaced whole.

    def write_info(self, info: RunInfo) -> None:
        """Replace run.json. Raises RunDirectoryError."""
        self._replace(self.run_json, info)

    def read_info(self) -> RunInfo:
        """Raises RunDirectoryError when run.json is damaged or of a newer version of crashbed."""
        return _read(self.run_json, RunInfo, remedy="it was damaged after the run wrote it")

    def finish(self, exit_code: int, *, now: datetime | None = None) -> None:
        """Note in run.json that the run ended, when, and with which exit code."""
        info = self.read_info()
        info.finished = utc_text(now or datetime.now(UTC))
        info.exit_code = exit_code
        self.write_info(info)

    def write_verdict(self, verdict: Verdict) -> None:
        """Replace verdict.json. Raises RunDirectoryError."""
        self._replace(self.verdict_json, verdict)

    def read_verdict(self) -> Verdict:
        """Raises RunDirectoryError when the run was not judged, or verdict.json cannot be read."""
        if not self.verdict_json.exists():
            raise RunDirectoryError(
                f"{self.path} has no verdict.json: the run was not judged. Judge it with: crashbed judge {self.path}"
            )
        return _read(self.verdict_json, Verdict, remedy=f"make it again with: crashbed judge {self.path}")

    def write_details(self, details: Details) -> None:
        """Replace details.json. Raises RunDirectoryError."""
        _replace_bytes(self.details_json, msgspec.json.encode(details, order="sorted") + b"\n")

    def read_details(self) -> Details:
        """Empty when there is none: a run that was judged before reports had details. Raises RunDirectoryError."""
        if not self.details_json.exists():
            return Details()
        return _read(self.details_json, Details, remedy=f"make it again with: crashbed judge {self.path}")

    def write_text(self, path: Path, text: str) -> None:
        """Replace one of the report files whole. Raises RunDirectoryError."""
        _replace_bytes(path, text.encode())

    def _replace(self, path: Path, value: msgspec.Struct) -> None:
        # Sorted keys: equal values are equal bytes, so that two runs can be compared with diff.
        encoded = msgspec.json.encode(value, order="sorted")
        _replace_bytes(path, msgspec.json.format(encoded, indent=2) + b"\n")


class Sitting(RunDirectory):
    """The part of a run that one harness recorded: a run that was resumed has several, one after the other.

    It reads what was recorded from `since_ns` on and before `until_ns` (CLOCK_MONOTONIC; None is no bound), and is
    judged by itself: each begins with a fresh cluster and a witness of its own, so what one shows is no evidence about
    another, and a cycle that was cut off and begun again is two.
    """

    __slots__ = ("_since_ns", "_until_ns")

    def __init__(self, path: Path, since_ns: int | None, until_ns: int | None) -> None:
        super().__init__(path)
        self._since_ns = since_ns
        self._until_ns = until_ns

    def covers(self, t_ns: int) -> bool:
        """Whether a time lies in it."""
        return (self._since_ns is None or t_ns >= self._since_ns) and (self._until_ns is None or t_ns < self._until_ns)

    def history_files(self) -> list[Path]:
        """The history files that were begun in it: no process lives on into the next."""
        return [path for path in super().history_files() if self.covers(_begun_ns(path))]


def _begun_ns(history: Path) -> int:
    """When a history file was begun, by its name."""
    match = re.fullmatch(r"[0-9]+-([0-9]+)\.jsonl", history.name)
    return int(match[1]) if match else 0


def sweep(base: Path) -> list[Path]:
    """Remove what killed runs below `base` left of no use to anybody: clusters to copy, half-written files.

    What a run recorded, its data directory and its planted code stay. Runs that go on are let alone. Returns what was
    removed.
    """
    removed = []
    for path in sorted(base.iterdir()):
        leftovers = [path / "template", path / "code.new", *path.glob(".*.new")] if _NAME.fullmatch(path.name) else []
        leftovers = [leftover for leftover in leftovers if leftover.exists()]
        if not leftovers:
            continue
        try:
            with RunDirectory(path).lock():
                for leftover in leftovers:
                    if leftover.is_dir():
                        shutil.rmtree(leftover)
                    else:
                        leftover.unlink()
                    removed.append(leftover)
        except (RunDirectoryError, OSError):
            continue  # it is written by a run that goes on, or somebody else's: not this run's trouble
    return removed


def utc_text(moment: datetime) -> str:
    """A moment as the run directory writes it: ISO 8601 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _make_unused(base: Path, name: str) -> Path:
    for number in range(1, 1000):
        path = base / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise RunDirectoryError(f"{base} holds a thousand runs named {name}: choose another place with --out")


def _replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, at any moment and after any kill, sees the old or the new whole."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unusable(error, "write", path) from error


def _read(path: Path, type: type[S], *, remedy: str) -> S:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unusable(error, "read", path) from error
    try:
        schema = msgspec.json.decode(data, type=_Versioned).schema
        if schema > SCHEMA:
            raise RunDirectoryError(
                f"{path} was written by a newer crashbed (format {schema}, this one knows {SCHEMA}): upgrade crashbed"
            )
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}; {remedy}") from error


class _Versioned(msgspec.Struct):
    schema: int = SCHEMA
