"""The walk over all files of a cluster: `crashbed verify` (PostgreSQL's pg_amcheck and pg_checksums in one).

Owns the order, what each check is told of the whole (where the log ends, which numbers were given out), and the rules
of what belongs to no one relation: the control file and the checkpoint that it names, the catalog against the files.

A pure reader over a `Disk`: no shared memory of a server, nothing written, so a server must not run meanwhile; its
newest pages are in its memory. Every corruption is told and none ends the walk, with two exceptions: without a control
file nobody knows what the other files should be, and a cluster that cannot be recovered has no content to check.
"""

from __future__ import annotations

from supervisor.engine.access.catalog import ENGINE_RELATIONS
from supervisor.engine.access.tuple import Row
from supervisor.engine.disk.disk import Disk
from supervisor.engine.recovery.cluster import check_version
from supervisor.engine.recovery.control import (
    CONTROL_FILE,
    ClusterState,
    ControlData,
    decode_checkpoint,
    read_control,
)
from supervisor.engine.storage.files import DIRECTORY, relation_path
from supervisor.engine.storage.page import KIND_BTREE_BYTES, KIND_BTREE_WORD, KIND_HEAP
from supervisor.engine.transam.clog import CLOG_RELATION
from supervisor.engine.transam.snapshot import FIRST_USER_RELATION
from supervisor.engine.verify.corruption import Corruption, Findings, Kind, Verification
from supervisor.engine.verify.definition import CATALOG, Definition
from supervisor.engine.verify.pages import LogBounds, PageFile, Progress
from supervisor.engine.verify.recovered import recovered_copy
from supervisor.engine.verify.table import TableCheck
from supervisor.engine.verify.transactions import Transactions
from supervisor.engine.wal.lsn import WAL_DIRECTORY, format_lsn
from supervisor.engine.wal.reader import WalReader
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.errors import Panic, ServerError, StartupError


def _in_silence(file: str, block: int, blocks: int) -> None:
    """No progress."""


def verify_cluster(disk: Disk, *, progress: Progress = _in_silence) -> Verification:
    """Check every file of a data directory on which no server runs; it is not changed.

    Raises StartupError for a directory that is none of this version, OSError for a file that cannot be read.
    """
    check_version(disk)
    files = _ClusterFiles(disk.list(DIRECTORY))
    if not disk.exists(CONTROL_FILE):
        return _stopped(_damage(Kind.CONTROL_FILE, CONTROL_FILE, "there is none"))
    try:
        control = read_control(disk)
    except StartupError as error:
        return _stopped(_damage(Kind.CONTROL_FILE, CONTROL_FILE, error.message))
    recovered = control.state is not ClusterState.SHUTDOWNED
    if recovered:
        try:
            disk = recovered_copy(disk, control)
        except (StartupError, ServerError, Panic) as error:
            return _stopped(_damage(Kind.WAL, WAL_DIRECTORY, f"recovery of a copy failed: {error}"), control)
    state, control = control.state.text, read_control(disk)
    walk = _Walk(disk, control, files, progress)
    walk.run()
    return Verification(
        state=state,
        recovered=recovered,
        end_lsn=walk.bounds.end,
        relations=tuple(findings.checked() for findings in walk.findings if findings.role),
        corruptions=tuple(one for findings in walk.findings for one in findings.corruptions),
    )


def _damage(kind: Kind, file: str, message: str) -> Corruption:
    return Corruption(kind, file, "", None, None, message)


def _stopped(corruption: Corruption, control: ControlData | None = None) -> Verification:
    """What ends a walk before it has begun."""
    return Verification("" if control is None else control.state.text, control is not None, 0, (), (corruption,))


class _ClusterFiles:
    """The names in the directory of relations."""

    def __init__(self, names: list[str]) -> None:
        self.relations = {int(name) for name in names if name.isdecimal() and str(int(name)) == name}
        self.strays = [name for name in names if not (name.isdecimal() and int(name) in self.relations)]


class _Walk:
    """One walk over a cluster that was shut down; afterwards `findings` has what each file came to."""

    def __init__(self, disk: Disk, control: ControlData, files: _ClusterFiles, progress: Progress) -> None:
        checkpoint = control.checkpoint
        self.findings: list[Findings] = []
        self._disk = disk
        self._control = control
        self._files = files
        self._progress = progress
        self._transactions = Transactions(checkpoint.oldest_xid, checkpoint.next_xid)
        self._tables: list[Definition] = []
        self._taken: dict[int, str] = dict.fromkeys(ENGINE_RELATIONS, "the engine itself")
        self.bounds = LogBounds(control.segment_size, self._end_of_log())

    def run(self) -> None:
        """Check everything; the catalog first, for it says what the other files are."""
        self._check_names()
        if self._is_there(CLOG_RELATION, "the commit log"):
            self._check_commit_log()
        self._check_table(CATALOG)
        for table in self._tables:
            self._check_table(table)
        for relation in sorted(self._files.relations - set(self._taken)):
            self._check_unnamed(relation)

    def _found(self, file: str, relation: str = "", role: str = "") -> Findings:
        self.findings.append(Findings(file, relation, role))
        return self.findings[-1]

    # What belongs to no relation.

    def _end_of_log(self) -> int:
        """Where valid WAL ends: right behind the shutdown checkpoint, or what is wrong with that is told."""
        control = self._control
        lsn = control.checkpoint_lsn
        reader = WalReader(self._disk, control)
        record = reader.read_record(lsn)
        where = f"checkpoint record at {format_lsn(lsn)}"
        wrong = ""
        if record is None:
            wrong = f"the {where} cannot be read: {reader.end_reason}"
        elif (record.rmgr, record.info) != (Rmgr.XLOG, XlogInfo.CHECKPOINT_SHUTDOWN):
            wrong = f"the {where} is none of a shutdown, and the control file says that the cluster was shut down"
        elif decode_checkpoint(record.body) != control.checkpoint:
            wrong = f"the {where} and the control file do not say the same"
        records = 0 if record is None else sum(1 for _ in reader.read_from(lsn))
        end = reader.end_lsn
        reader.close()
        if not wrong and records > 1:
            wrong = f"{records - 1} records lie behind the shutdown's {where}"
        if wrong:
            self._found(WAL_DIRECTORY).add(Kind.WAL, wrong)
        # Every page had been written when the checkpoint's record was.
        return end or lsn

    def _check_names(self) -> None:
        found = self._found(DIRECTORY)
        for name in self._files.strays:
            found.add(Kind.FILE, f"{name!r} is no relation's file")
        for relation in sorted(self._files.relations):
            if relation >= self._control.checkpoint.next_relation:
                found.add(
                    Kind.FILE,
                    f"{relation_path(relation)} has a number that was never given out: "
                    f"the next is {self._control.checkpoint.next_relation}",
                )
            elif relation < FIRST_USER_RELATION and relation not in ENGINE_RELATIONS:
                found.add(Kind.FILE, f"{relation_path(relation)} has a number that no table can have")

    # Relations.

    def _is_there(self, relation: int, whose: str) -> bool:
        if relation in self._files.relations:
            return True
        self._found(relation_path(relation)).add(Kind.FILE, f"the file of {whose} is missing")
        return False

    def _check_commit_log(self) -> None:
        findings = self._found(relation_path(CLOG_RELATION), "", "commit log")
        file = PageFile(self._disk, CLOG_RELATION, self.bounds, findings, self._progress)
        self._transactions.read(file, findings)
        file.close()

    def _check_table(self, table: Definition) -> None:
        heap = self._is_there(table.heap, f"table {table.name}")
        index = self._is_there(table.index, f"index {table.index_name}")
        if not (heap and index):
            return
        check = TableCheck(self._disk, table, self._transactions, self.bounds, self._progress)
        self.findings += [check.heap, check.index]

        def note(row: Row, block: int, line: int) -> None:
            wrong = self._note_table(row)
            if wrong:
                check.heap.add(Kind.CATALOG, wrong, block=block, offset=line)

        check.run(note if table is CATALOG else None)

    def _note_table(self, row: Row) -> str:
        """Take a table of the catalog; what is wrong with it, in words, "" if nothing."""
        try:
            table = Definition.from_row(row)
        except ValueError as error:
            return str(error)
        for relation in (table.heap, table.index):
            if relation in self._taken:
                return f"table {table.name} has relation {relation}, and so has {self._taken[relation]}"
            if not FIRST_USER_RELATION <= relation < self._control.checkpoint.next_relation:
                return f"table {table.name} has relation {relation}, a number that was never given out"
            self._taken[relation] = f"table {table.name}"
        self._tables.append(table)
        return ""

    def _check_unnamed(self, relation: int) -> None:
        """The file of a table whose creation did not commit, which stays: its pages are looked at one by one."""
        findings = self._found(relation_path(relation), "", "no table's")
        file = PageFile(self._disk, relation, self.bounds, findings, self._progress)
        for block in range(file.blocks):
            file.read(block, KIND_HEAP, KIND_BTREE_WORD, KIND_BTREE_BYTES)
        file.close()
