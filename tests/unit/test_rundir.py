"""The run directory outlives its harness.

What could go wrong: a SIGKILL tears the record being written and a reader then loses the records after it, or
takes half a record for a whole one; a full disk goes unnoticed and the evidence has a hole; verdict.json is
half written when it is read; a wrong path ends in a traceback instead of a sentence; two runs of the same
second share a directory; what one version wrote, a later one misreads.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from reports.records import RecordReader, RecordWriter, read_records
from reports.rundir import RunDirectory, RunDirectoryError, RunInfo, sweep
from reports.verdict import OracleRow, OracleStatus, Status, Verdict

NOON = datetime(2025, 11, 20, 12, 0, 0, tzinfo=UTC)
RECORDS = [
    {"t": 1, "ev": "invoke", "op": 4294967297, "note": 'Grüße, 雪, "quoted"\nnew line'},
    {"t": 2, "ev": "ok", "op": 4294967297, "values": [1, -2, None, 0.5, {"a": True}]},
    {"t": 3, "ev": "fail", "op": 4294967298, "sqlstate": "40001", "text": "\\ \u2028 end ☃"},
]


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with RecordWriter(path) as writer:
        writer.append(RECORDS[0])
        writer.extend(RECORDS[1:])
    reader = read_records(path)
    assert list(reader) == RECORDS
    assert (reader.count, reader.torn) == (3, 0)


def test_a_record_is_one_write_led_by_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with RecordWriter(path) as writer:
        writer.append({"a": 1})
        assert path.read_bytes() == b'\n{"a":1}', "a record must be in the kernel's hands when append returns"


def test_a_tear_at_every_byte_of_the_last_record_loses_that_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with RecordWriter(path) as writer:
        for record in RECORDS[:2]:
            writer.append(record)
        before = path.stat().st_size
        writer.append(RECORDS[2])
    whole = path.read_bytes()
    for length in range(before, len(whole)):
        path.write_bytes(whole[:length])
        reader = read_records(path)
        assert list(reader) == RECORDS[:2], f"torn after {length - before} bytes"
        # Nothing at all, or the newline alone, is no torn record: there is no sign that one was begun.
        assert reader.torn == (1 if length - before > 1 else 0), f"torn after {length - before} bytes"


def test_a_tear_is_cut_off_by_the_record_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    encoded = [b"\n" + msgspec.json.encode(record) for record in RECORDS]
    for length in range(1, len(encoded[1])):
        path.write_bytes(encoded[0] + encoded[1][:length])
        with RecordWriter(path) as writer:
            writer.append(RECORDS[2])
        reader = read_records(path)
        assert list(reader) == [RECORDS[0], RECORDS[2]], f"torn after {length} bytes"
        assert reader.torn == (1 if length > 1 else 0)


def test_what_is_not_a_record_is_counted_and_what_is_missing_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\n\n{"a":1}\n12\n"text"\n[1]\n\x00\x00\n\xff\xfe\n{"b":2}\n{"a":1}{"a":2}')
    reader = read_records(path)
    assert list(reader) == [{"a": 1}, {"b": 2}]
    assert reader.torn == 6
    missing = read_records(tmp_path / "never.jsonl")
    assert list(missing) == []
    assert (missing.count, missing.torn) == (0, 0)


class _Ok(msgspec.Struct):
    t: int
    op: int


def test_a_whole_record_of_another_type_is_an_error_and_not_a_tear(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\n{"t":1,"op":2}\n{"t":"one","op":2}')
    reader = RecordReader(path, _Ok)
    with pytest.raises(RunDirectoryError, match=r"events\.jsonl, line 3: not a record"):
        list(reader)


def _write_until_killed(path: Path, began: object) -> None:
    with RecordWriter(path) as writer:
        number = 0
        while True:
            writer.append({"n": number, "filler": "x" * (number % 700)})
            number += 1
            if number == 100:
                began.set()  # type: ignore[attr-defined]


def test_a_real_sigkill_leaves_an_unbroken_prefix(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=_write_until_killed, args=(path, began))
    process.start()
    try:
        assert began.wait(60), "the writer did not begin within 60 s"
    finally:
        process.kill()
        process.join()
    reader = read_records(path)
    numbers = [record["n"] for record in reader]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 100
    assert reader.torn <= 1


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    full = tmp_path / "events.jsonl"
    full.symlink_to("/dev/full")
    with RecordWriter(full) as writer, pytest.raises(RunDirectoryError, match=r"No space left.*free some space"):
        writer.append({"a": 1})


def _write_against_a_limit(path: Path, answers: object) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        with RecordWriter(path) as writer:
            writer.append({"first": "fits"})
            writer.append({"second": "x" * 200})
        answers.put("no error")  # type: ignore[attr-defined]
    except RunDirectoryError as error:
        answers.put(str(error))  # type: ignore[attr-defined]


def test_a_write_cut_short_is_an_error_and_the_rest_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_write_against_a_limit, args=(path, answers))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "File too large" in answers.get()
    answers.close()
    reader = read_records(path)
    assert list(reader) == [{"first": "fits"}]
    assert reader.torn == 1


def test_create_makes_a_directory_that_tells_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "out", 42, now=NOON)
    assert run.path == tmp_path / "deep" / "out" / "20251120T120000Z-42"
    assert run.read_info() == RunInfo(seed=42, started="2025-11-20T12:00:00Z")
    with run.harness_writer() as harness, run.kernel_writer() as kernel, run.observed_writer() as observed:
        harness.append({"ev": "cycle_begin"})
        kernel.append({"ev": "witness"})
        observed.append({"cycle": 1})
    (run.history / "w-7.jsonl").write_bytes(b'\n{"op":1}')
    (run.history / "w-10.jsonl").write_bytes(b'\n{"op":2}')
    again = RunDirectory.open(run.path)
    assert list(again.harness_records()) == [{"ev": "cycle_begin"}]
    assert list(again.kernel_records()) == [{"ev": "witness"}]
    assert list(again.server_records()) == []
    assert list(again.observed_records()) == [{"cycle": 1}]
    assert [path.name for path in again.history_files()] == ["w-10.jsonl", "w-7.jsonl"]
    assert [list(reader) for reader in again.history_records()] == [[{"op": 2}], [{"op": 1}]]


def test_two_runs_of_the_same_second_do_not_share_a_directory(tmp_path: Path) -> None:
    names = [RunDirectory.create(tmp_path, 1, now=NOON).path.name for _ in range(3)]
    assert names == ["20251120T120000Z-1", "20251120T120000Z-1-2", "20251120T120000Z-1-3"]


def test_open_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "out", 1, now=NOON)
    with pytest.raises(RunDirectoryError, match="does not exist"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match=r"no run\.json.*did you mean .*20251120T120000Z-1"):
        RunDirectory.open(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="crashbed run"):
        RunDirectory.open(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="not a directory"):
        RunDirectory.open(tmp_path / "file")
    assert RunDirectory.open(run.run_json).path == run.path, "a file of a run names the run"


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(RunDirectoryError, match="could not make a run directory in"):
        RunDirectory.create(tmp_path / "out", 1)


def _verdict() -> Verdict:
    row = OracleRow(name="durability", title="Acknowledged work is found again", status=OracleStatus.HELD, trials=3)
    return Verdict(
        status=Status.HELD,
        exit_code=0,
        seed=1,
        target="built-in server",
        workload="bank",
        cycles=3,
        conclusive_cycles=3,
        oracles=(row,),
    )


def test_verdict_and_run_json_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, 1, now=NOON)
    with pytest.raises(RunDirectoryError, match=r"not judged.*crashbed judge"):
        run.read_verdict()
    run.write_verdict(_verdict())
    assert run.read_verdict() == _verdict()
    assert json.loads(run.verdict_json.read_text())["oracles"][0]["status"] == "held"
    run.finish(5, now=NOON)
    info = run.read_info()
    assert (info.exit_code, info.finished, info.seed) == (5, "2025-11-20T12:00:00Z", 1)
    before = run.verdict_json.read_bytes()
    run.write_verdict(_verdict())
    assert run.verdict_json.read_bytes() == before, "equal verdicts are equal bytes"


def test_a_damaged_or_newer_verdict_is_refused_with_a_remedy(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, 1, now=NOON)
    run.write_verdict(_verdict())
    whole = run.verdict_json.read_bytes()
    run.verdict_json.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunDirectoryError, match=r"cannot be read.*crashbed judge"):
        run.read_verdict()
    run.verdict_json.write_bytes(whole.replace(b'"schema": 1', b'"schema": 99'))
    with pytest.raises(RunDirectoryError, match=r"newer crashbed \(format 99"):
        run.read_verdict()


def test_a_failed_replacement_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path, 1, now=NOON)
    run.write_verdict(_verdict())
    before = run.verdict_json.read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        run.write_verdict(_verdict())
    monkeypatch.undo()
    assert run.verdict_json.read_bytes() == before
    assert sorted(path.name for path in run.path.iterdir() if path.is_file()) == ["run.json", "verdict.json"]


def test_a_run_has_one_writer_and_its_lock_ends_with_it(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, 1, now=NOON)
    another = RunDirectory.open(run.path)
    refused = pytest.raises(RunDirectoryError, match="is being written by a run that has not ended")
    with run.lock(), refused, another.lock():
        pass
    with another.lock():
        pass


def test_a_sweep_removes_what_killed_runs_left_and_nothing_else(tmp_path: Path) -> None:
    killed, living = (RunDirectory.create(tmp_path, seed, now=NOON) for seed in (1, 2))
    foreign = RunDirectory(tmp_path / "of-somebody-else")
    for run in (killed, living, foreign):
        for directory in (run.template, run.pgdata, run.code, run.path / "code.new"):
            directory.mkdir(parents=True)
        (run.path / ".run.json.new").write_text("{")
    with living.lock():
        removed = sweep(tmp_path)
    assert {path.relative_to(killed.path).name for path in removed} == {"template", "code.new", ".run.json.new"}
    assert killed.pgdata.exists() and killed.code.exists() and killed.run_json.exists()
    assert living.template.exists() and foreign.template.exists()
