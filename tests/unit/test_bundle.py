"""A bundle holds what a bug report needs and nothing that should not leave the machine.

What could go wrong: a link in the run directory that packs somebody's key; a variable's value that was a password; two
bundles of one run that differ, so that nobody can tell whether they are the same run; an excerpt whose missing records
are judged as losses; a cycle replayed from the wrong place because its record was cut; half a file where packing failed.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from chaos.archive import Archive
from chaos.bundle import Contents, Wanted, environment, pack, survey
from chaos.cli.main import run as crashbed
from chaos.excerpt import Stretch, lines_within, stretches
from chaos.explain.story import tell_operation
from chaos.judge import judge_in_full
from chaos.manifest import Manifest
from chaos.phases import Cycle
from chaos.plan import CampaignPlan
from chaos.replay import replay_order
from chaos.verdict import ExitCode
from reports.records import RecordWriter
from reports.rundir import RunDirectory, RunDirectoryError
from reports.verdict import Finding, Status, Verdict

BARE = Wanted(environment=False)
SECRET = "swordfish"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Eight cycles of 10 ns, in epochs of four; cycle 5 failed; one process for each cycle."""
    made = RunDirectory.create(tmp_path / "out", 4)
    info = made.read_info()
    info.plan = {"campaign": msgspec.to_builtins(CampaignPlan(seed=4, epoch_cycles=4)), "defect": None}
    made.write_info(info)
    with made.harness_writer() as harness, made.kernel_writer() as kernel:
        for cycle in range(8):
            harness.append({"t": cycle * 10, "ev": "cycle_begin", "cycle": cycle, "epoch": cycle // 4})
            kernel.append({"t": cycle * 10 + 5, "ev": "fork", "child": cycle})
            harness.append({"t": cycle * 10 + 9, "ev": "cycle_end", "cycle": cycle})
            with RecordWriter(made.history / f"{cycle}-{cycle * 10}.jsonl") as history:
                history.append({"t": cycle * 10 + 1, "ev": "invoke"})
    made.write_verdict(verdict(5))
    made.server_log.write_text("LOG:  ready\n")
    (made.pgdata / "pg_wal").mkdir(parents=True)
    (made.pgdata / "pg_notify").mkdir()
    (made.pgdata / "pg_wal" / "000000010000000000000001").write_bytes(bytes(1000))
    return made


def verdict(*cycles: int | None) -> Verdict:
    findings = tuple(Finding(oracle="durability", message="lost", cycle=cycle) for cycle in cycles)
    return Verdict(
        status=Status.FINDING, exit_code=1, seed=4, target="builtin", workload="bank", cycles=8, conclusive_cycles=8,
        findings=findings,
    )  # fmt: skip


def packed(run: RunDirectory, path: Path, wanted: Wanted = BARE, *, small_bytes: int = 1 << 20) -> Manifest:
    return pack(run, path, wanted, survey(run, wanted), progress=lambda _: None, small_bytes=small_bytes)


def unpacked(archive: Path, into: Path) -> RunDirectory:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (inside,) = into.iterdir()
    return RunDirectory.open(inside)


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


# What goes in.


def test_what_is_unpacked_is_what_was_packed(run: RunDirectory, tmp_path: Path) -> None:
    packed(run, tmp_path / "b.tar.gz", Wanted(data=True, environment=False))
    again = unpacked(tmp_path / "b.tar.gz", tmp_path / "there")
    assert again.path.name == run.path.name
    before = {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    after = {path.relative_to(again.path): path.read_bytes() for path in again.path.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {Path("MANIFEST")}
    assert {name: after[name] for name in before} == before
    assert (again.pgdata / "pg_notify").is_dir(), "a server misses a directory that was empty"


def test_the_same_run_gives_the_same_bytes(run: RunDirectory, tmp_path: Path) -> None:
    packed(run, tmp_path / "one.tar.gz")
    for path in run.path.rglob("*"):
        os.utime(path, (1, 1))
    packed(run, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_the_manifest_says_what_was_left_out_and_why(run: RunDirectory, tmp_path: Path) -> None:
    run.code.mkdir()
    (run.path / "notes.txt").write_text("mine")
    told = str(packed(run, tmp_path / "b.tar.gz"))
    assert (unpacked(tmp_path / "b.tar.gz", tmp_path / "there").path / "MANIFEST").read_text() == told
    assert "  code: the server with the planted defect, which a replay plants again" in told
    assert "  notes.txt: no part of a run\n" in told
    assert "  pgdata: the data directory: --data packs it\n" in told
    assert "points.map, report.html, summary.md: is not there\n" in told
    assert f"{12:14,d}  server.log\n" in told
    assert not names(tmp_path / "b.tar.gz") & {"code", "notes.txt", "pgdata"}


def test_a_summary_names_a_few_of_many() -> None:
    manifest = Manifest("r", left_out=[(f"history/{n}.jsonl", "nothing in it") for n in range(9)])
    assert "  history/0.jsonl, history/1.jsonl, history/2.jsonl and 6 more: nothing in it\n" in manifest.summary
    assert "history/8.jsonl" in str(manifest)


# What must not.


@pytest.mark.parametrize("place", ["server.log", "history/1-0.jsonl", "history", "pgdata/pg_wal/link"])
def test_no_link_is_followed_out_of_the_run(run: RunDirectory, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_text(SECRET)
    link = run.path / place
    if link.is_dir():
        link.rename(tmp_path / "away")
    link.unlink(missing_ok=True)
    link.symlink_to(outside if place == "history" else outside / "key")
    told = str(packed(run, tmp_path / "b.tar.gz", Wanted(data=True, environment=False)))
    assert f"  {place}: a symbolic link, which is not followed\n" in told
    assert not contains(tmp_path / "b.tar.gz", SECRET)


def test_a_link_that_comes_after_the_survey_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    contents = survey(run, BARE)
    (tmp_path / "key").write_text(SECRET)
    run.server_log.unlink()
    run.server_log.symlink_to(tmp_path / "key")
    with pytest.raises(OSError, match="symbolic links"):
        pack(run, tmp_path / "b.tar.gz", BARE, contents, progress=lambda _: None)
    assert not [path for path in tmp_path.iterdir() if "b.tar.gz" in path.name], "nothing half made is left"


def test_a_pipe_is_not_waited_for(run: RunDirectory, tmp_path: Path) -> None:
    os.mkfifo(run.history / "9-9.jsonl")
    assert "  history/9-9.jsonl: neither a file nor a directory" in str(packed(run, tmp_path / "b.tar.gz"))


def test_the_values_of_a_plans_variables_stay_here(run: RunDirectory, tmp_path: Path) -> None:
    info = run.read_info()
    info.plan = {"campaign": {"environment": {"PASSWORD": SECRET}}}
    run.write_info(info)
    told = str(packed(run, tmp_path / "b.tar.gz"))
    assert "  PASSWORD, a variable of the plan in run.json: its value may be a secret" in told
    assert not contains(tmp_path / "b.tar.gz", SECRET)
    assert SECRET in run.run_json.read_text(), "the run itself was changed"


def test_of_the_environment_only_named_variables_are_packed(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    found = json.loads(environment(tmp_path, run.read_info()))
    assert found["variables"]["PYTHONHASHSEED"] == "7"
    assert SECRET not in json.dumps(found)
    assert "kernel" in [line["name"] for line in found["doctor"]["lines"]]


def contains(archive: Path, text: str) -> bool:
    with tarfile.open(archive) as tar:
        members = [tar.extractfile(member) for member in tar.getmembers() if member.isfile()]
        return any(text.encode() in member.read() for member in members if member is not None)


# Excerpts.


def cycles(count: int) -> list[Cycle]:
    return [
        Cycle(n, 0, "sigquit", n * 10, n * 10 + 9, (), landed=True, ready_ns=None, first_commit_ns=None)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("failed", "chosen"),
    [
        ([4], ["3 to 5"]),
        ([0], ["0 to 1"]),
        ([2, 5], ["1 to 6"]),
        ([2, 6], ["1 to 3", "5 to 7"]),
        ([None], ["8 to 9"]),
        ([], ["8 to 9"]),
    ],
)
def test_an_excerpt_is_of_the_failing_cycles_and_their_neighbours(
    failed: Sequence[int | None], chosen: list[str]
) -> None:
    assert [str(stretch) for stretch in stretches(cycles(10), verdict(*failed))] == chosen


def test_a_run_that_was_not_judged_or_ran_no_cycle_has_an_excerpt_too() -> None:
    assert [str(stretch) for stretch in stretches(cycles(10), None)] == ["8 to 9"]
    assert stretches([], verdict(1)) == []


def test_what_follows_the_last_cycle_belongs_to_it() -> None:
    assert stretches(cycles(10), verdict(9)) == [Stretch(8, 9, 80, None)]
    assert stretches(cycles(10), verdict(1)) == [Stretch(0, 2, 0, 29)]


def test_lines_without_a_time_are_kept_as_they_are() -> None:
    lines = [b"\n", b'{"t":9}\n', b'{"t":10}\n', b'{"t":1\n', b'{"ev":"x"}\n', b"\xff\n", b'{"t":20}\n', b'{"t":21}']
    kept = list(lines_within(lines, [Stretch(1, 1, 10, 20)]))
    assert kept == [b"\n", b'{"t":10}\n', b'{"t":1\n', b'{"ev":"x"}\n', b"\xff\n", b'{"t":20}\n']


def test_a_large_run_is_packed_as_an_excerpt_that_nobody_judges(run: RunDirectory, tmp_path: Path) -> None:
    manifest = packed(run, tmp_path / "b.tar.gz", small_bytes=1)
    assert manifest.evidence.startswith("evidence: of cycles 4 to 6 alone, it cannot be judged")
    again = unpacked(tmp_path / "b.tar.gz", tmp_path / "there")
    assert [record["child"] for record in again.kernel_records()] == [4, 5, 6]
    with pytest.raises(RunDirectoryError, match="holds the evidence of cycles 4 to 6 alone"):
        judge_in_full(again)
    with pytest.raises(RunDirectoryError, match="holds the evidence of cycles 4 to 6 alone"):
        tell_operation(again, 1)
    assert again.read_verdict() == run.read_verdict()
    assert replay_order(again, 7).first_cycle == replay_order(run, 7).first_cycle == 4


def test_an_excerpt_stays_one_when_it_is_packed_again(run: RunDirectory, tmp_path: Path) -> None:
    packed(run, tmp_path / "b.tar.gz", small_bytes=1)
    again = unpacked(tmp_path / "b.tar.gz", tmp_path / "there")
    for number, small_bytes in enumerate((1, 1 << 20)):
        assert packed(again, tmp_path / f"{number}.tar.gz", small_bytes=small_bytes).cycles == "4 to 6"
        with pytest.raises(RunDirectoryError, match="cycles 4 to 6 alone"):
            unpacked(tmp_path / f"{number}.tar.gz", tmp_path / f"there{number}").insist_on_whole()


def test_all_evidence_goes_in_when_it_is_asked_for(run: RunDirectory, tmp_path: Path) -> None:
    manifest = packed(run, tmp_path / "b.tar.gz", Wanted(everything=True, environment=False), small_bytes=1)
    assert manifest.cycles == ""
    assert len(unpacked(tmp_path / "b.tar.gz", tmp_path / "there").history_files()) == 8


def test_progress_comes_to_all_that_was_surveyed(run: RunDirectory, tmp_path: Path) -> None:
    for small_bytes in (1, 1 << 20):
        told: list[int] = []
        contents: Contents = survey(run, BARE)
        pack(run, tmp_path / f"{small_bytes}.tar.gz", BARE, contents, progress=told.append, small_bytes=small_bytes)
        assert sum(told) == contents.bytes


# The file and the command.


def test_nothing_is_left_of_an_archive_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), Archive(tmp_path / "a.tar.gz") as archive:
        archive.add_bytes("name", b"content")
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def test_the_command_packs_beside_the_run_and_replaces_nothing(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bundle", str(run.path), "--no-environment"]
    assert crashbed(command) == 0
    file = run.path.with_name(f"{run.path.name}.tar.gz")
    assert capsys.readouterr().out.splitlines()[-1] == f"bundle: {file} ({file.stat().st_size:,d} bytes)"
    before = file.read_bytes()
    assert crashbed(command) == ExitCode.USAGE
    assert f"{file} is there already: remove it or choose another name" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_bundle_that_cannot_be_made_gets_a_sentence(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crashbed(["bundle", str(run.path), "-o", str(tmp_path / "no" / "b.tar.gz")]) == ExitCode.USAGE
    assert "is no directory: the bundle needs one to be made in" in capsys.readouterr().err
    assert crashbed(["bundle", str(tmp_path)]) == ExitCode.HARNESS_ERROR
    assert "is not a run directory" in capsys.readouterr().err
    damaged = run.path.with_name("damaged")
    damaged.mkdir()
    (damaged / "run.json").write_text('{"seed"')
    assert crashbed(["bundle", str(damaged), "--no-environment"]) == ExitCode.HARNESS_ERROR
    assert "run.json cannot be read" in capsys.readouterr().err
    with run.lock():
        assert crashbed(["bundle", str(run.path)]) == ExitCode.HARNESS_ERROR
    assert "is being written by a run that has not ended" in capsys.readouterr().err
