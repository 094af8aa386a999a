"""Histories: nothing that a worker was told may be lost to a SIGKILL, and nothing may be made up.

What could go wrong: a record written in two pieces, a file shared or reopened, a torn line that swallows the
next one, an answer taken for another operation's, an operation id used twice that passes for one operation.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from reports.records import read_records
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.workload import Outcome, Request, cycle_of, last_operation_of, operation_id

REQUEST = Request(operation_id(3, 1, 7), 1, "transfer", {"source": 4, "target": 9, "amount": 20})


class Ticks:
    def __init__(self) -> None:
        self.ns = 100

    def __call__(self) -> int:
        self.ns += 1
        return self.ns


def write(directory: Path, pid: int = 42) -> HistoryWriter:
    return HistoryWriter(str(directory), pid, Ticks())


def test_records_hold_what_was_asked_and_told(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.invoke(REQUEST)
    writer.fail(REQUEST, "40001")
    writer.close()
    records, torn = parse_records(Path(writer.path).read_bytes())
    assert torn == 0
    envelope = {"pid": 42, "op": REQUEST.operation, "worker": 1, "kind": "transfer"}
    assert records == [
        {"t": 102, "ev": "invoke", "source": 4, "target": 9, "amount": 20, **envelope},
        {"t": 103, "ev": "fail", "sqlstate": "40001", **envelope},
    ]


def test_the_reader_of_run_directories_reads_them(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.invoke(REQUEST)
    writer.ok(REQUEST)
    writer.close()
    path = Path(writer.path)
    assert list(read_records(path)) == parse_records(path.read_bytes())[0]


def test_a_file_is_never_reopened(tmp_path: Path) -> None:
    first = HistoryWriter(str(tmp_path), 42, lambda: 7)
    with pytest.raises(FileExistsError):
        HistoryWriter(str(tmp_path), 42, lambda: 7)
    first.close()
    first.close()


def test_each_record_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def note(descriptor: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    writer = write(tmp_path)
    monkeypatch.setattr("workloads.history.os.write", note)
    writer.invoke(REQUEST)
    writer.unknown(REQUEST, None)
    monkeypatch.undo()
    writer.close()
    assert len(written) == 2
    assert all(data.startswith(b"\n{") and data.endswith(b"}") for data in written)


def test_a_full_disk_stops_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write(tmp_path)
    monkeypatch.setattr("workloads.history.os.write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="wrote"):
        writer.invoke(REQUEST)
    monkeypatch.undo()
    writer.close()


def test_what_was_written_before_a_sigkill_is_there(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            writer = write(tmp_path, os.getpid())
            writer.invoke(REQUEST)
            writer.ok(REQUEST)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child was to die of its own SIGKILL"
    (path,) = tmp_path.iterdir()
    history = read_history([parse_records(path.read_bytes())[0]])
    assert history.operations[REQUEST.operation].outcome is Outcome.OK


def test_every_truncation_reads_as_a_prefix(tmp_path: Path) -> None:
    writer = write(tmp_path)
    for number in range(3):
        request = REQUEST._replace(operation=operation_id(0, 1, number))
        writer.invoke(request)
        writer.ok(request)
    writer.close()
    whole = Path(writer.path).read_bytes()
    records, _ = parse_records(whole)
    for length in range(len(whole) + 1):
        prefix, torn = parse_records(whole[:length])
        assert prefix == records[: len(prefix)]
        assert torn <= 1
        complete = whole[:length].count(b"\n") - torn
        assert len(prefix) == complete - (whole[:length].endswith(b"\n"))


def test_a_torn_line_is_cut_off_by_the_next_record() -> None:
    records, torn = parse_records(b'\n{"op":1,"ev":"inv\n{"op":2}\n\n{"op":\xff}')
    assert records == [{"op": 2}]
    assert torn == 2


def record(ev: str, op: int, pid: int = 1, t: int = 0, **values: object) -> dict[str, object]:
    return {"t": t, "pid": pid, "ev": ev, "op": op, "worker": 0, "kind": "transfer", **values}


def test_outcomes_are_what_was_told() -> None:
    files = [
        [record("invoke", 1, amount=5), record("ok", 1, t=9, lsn=77)],
        [
            record("invoke", 2),
            record("fail", 2, sqlstate="40P01"),
            record("invoke", 3),
            record("unknown", 3, sqlstate="XX000"),
        ],
        [record("invoke", 4)],
    ]
    history = read_history(files)
    outcomes = {id_: operation.outcome for id_, operation in history.operations.items()}
    assert outcomes == {1: Outcome.OK, 2: Outcome.FAIL, 3: Outcome.UNKNOWN, 4: Outcome.UNKNOWN}
    assert history.operations[1].values == {"amount": 5}
    assert history.operations[1].lsn == 77
    assert history.operations[1].answered_ns == 9
    assert history.operations[2].sqlstate == "40P01"
    assert history.operations[4].answered_ns is None
    assert history.contradictions == ()


@pytest.mark.parametrize(
    "files",
    [
        [[record("invoke", 1), record("invoke", 1)]],
        [[record("invoke", 1)], [record("invoke", 1, pid=2)]],
        [[record("ok", 1)]],
        [[record("invoke", 1)], [record("ok", 1, pid=2)]],
        [[record("invoke", 1), record("ok", 1), record("fail", 1)]],
    ],
    ids=["invoked-twice", "invoked-by-two", "never-invoked", "answered-elsewhere", "answered-twice"],
)
def test_records_that_contradict_each_other_are_told(files: list[list[dict[str, object]]]) -> None:
    history = read_history(files)
    assert history.contradicted == {1}
    assert len(history.contradictions) == 1


def test_operation_ids_order_cycles_and_fit_a_bigint() -> None:
    assert operation_id(2, 3, 4) == 2 << 32 | 3 << 20 | 4
    assert operation_id(1, 4095, (1 << 20) - 1) == last_operation_of(1) < operation_id(2, 0, 0)
    assert cycle_of(operation_id((1 << 31) - 1, 4095, 5)) == (1 << 31) - 1
    assert operation_id((1 << 31) - 1, 4095, (1 << 20) - 1) < 1 << 63
    assert last_operation_of(-1) == -1
    for wrong in ((-1, 0, 0), (0, 4096, 0), (0, 0, 1 << 20), (1 << 31, 0, 0)):
        with pytest.raises(ValueError, match="no operation id"):
            operation_id(*wrong)


def test_records_are_plain_json(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.invoke(REQUEST._replace(values={"text": 'a "quoted"\nline'}))
    writer.close()
    line = Path(writer.path).read_bytes()
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line)["text"] == 'a "quoted"\nline'
