"""Made-up run directories for the tests of reports. Nothing here was measured; nothing here is product code.

`make_run` writes the files that a harness and a judge would have written, in the same formats, for a run that
held, found something, proved too little or was interrupted. The numbers come from a seed, so that equal calls
give equal directories.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reports.details import (
    BlowMark,
    Details,
    Edge,
    Lane,
    Machine,
    Mark,
    Resources,
    RoleLives,
    Series,
    StateSpan,
    Timeline,
    Timelines,
    Trend,
)
from reports.rundir import RunDirectory
from reports.statistics import bound
from reports.verdict import (
    Coverage,
    Environment,
    FailureKind,
    Failures,
    Fate,
    Finding,
    Inconclusive,
    Ledger,
    LoadRate,
    NotJudged,
    OracleRow,
    OracleStatus,
    PointHits,
    ReachedLoad,
    Recovery,
    Status,
    Verdict,
    decide,
)

HOSTILE = (
    "</script><script>alert('x')</script> & \"quoted\" <img src=http://example.invalid/x.png> \x00\x1b[31m `|*_ ]]>"
)

ORACLES = (
    ("durability", "Acknowledged work is found again", None),
    ("atomicity", "Transactions are found whole or not at all", None),
    ("resurrection", "What was refused stays absent", None),
    ("invariant", "Balances equal the transfers found", None),
    ("wal_replay", "Redo changes pages older than its records", None),
    ("fan_out", "Every child is told to quit", 4987.3),
    ("reaped", "The postmaster reaps every child", 4871.9),
    ("slot_release", "A slot is released once, after its wait", 2.41),
    ("new_memory", "A new generation of shared memory", None),
    ("recovery_first", "No operation before recovery ended", 0.38),
    ("exit_status", "Exit statuses are classified right", None),
    ("transitions", "Only transitions that the core makes", None),
)

POINTS = [
    "WAL_INSERT_BEFORE_LOCK",     "WAL_INSERT_UNDER_LOCK",     "WAL_INSERT_AFTER_COPY",
    "WAL_FLUSH_BEFORE_WRITE",     "WAL_FLUSH_BEFORE_FSYNC",     "WAL_FLUSH_AFTER_FSYNC",
    "COMMIT_BEFORE_RECORD",     "COMMIT_AFTER_RECORD",     "COMMIT_AFTER_FLUSH",     "COMMIT_BEFORE_VISIBLE",
    "HEAP_INSERT_UNDER_LOCK",     "HEAP_UPDATE_UNDER_LOCK",     "BTREE_INSERT_UNDER_LOCK",     "BUFFER_READ",
    "CHECKPOINT_BEGIN",     "REDO_BEGIN",     "REDO_RECORD",     "REDO_END",     "LWLOCK_ACQUIRED",
    "BACKEND_READY",     "STATEMENT_BEGIN",     "DISK_PREAD",     "DISK_PWRITE",     "DISK_FDATASYNC",
]  # fmt: skip
NEVER = ("BTREE_SPLIT_UNDER_LOCK", "WAL_SEGMENT_RECYCLE", "HEAP_DELETE_UNDER_LOCK", "CHECKPOINT_AFTER_CONTROL")


def make_run(
    base: Path,
    status: Status = Status.HELD,
    *,
    cycles: int = 300,
    seed: int = 42,
    hostile: bool = False,
    timed: bool = True,
) -> RunDirectory:
    """A complete, judged run directory below `base`."""
    random_ = random.Random(seed)
    run = RunDirectory.create(base, seed, now=datetime(2025, 11, 20, 12, 24, tzinfo=UTC))
    info = run.read_info()
    info.command = ["crashbed", "run", "--kills", str(cycles), "--workload", "bank", "--seed", str(seed)]
    info.plan = {"workload": "bank", "backends": 8, "kills": cycles, "epoch": 50, "faults": ["kill-child", "kill-role"]}
    info.settings = {"shared_buffers": "16MB", "fsync": "on", "checkpoint_timeout": "300s"}
    info.versions = {"crashbed": "0.1.0", "python": "3.11.7"}
    run.write_info(info)
    recoveries = tuple(_recovery(random_, cycle) for cycle in range(1, cycles + 1)) if timed else ()
    _write_events(run, random_, cycles)
    run.write_details(_details(recoveries, cycles, HOSTILE if hostile else ""))
    run.write_verdict(_verdict(run, status, cycles, seed, recoveries, HOSTILE if hostile else ""))
    run.finish(0, now=datetime(2025, 11, 20, 12, 31, 8, tzinfo=UTC))
    return run


def _recovery(random_: random.Random, cycle: int) -> Recovery:
    slow = random_.random() < 0.02
    at = 0.0
    marks: dict[str, Any] = {}
    for key, typical in (
        ("noticed", 0.25),
        ("fan_out_done", 0.5),
        ("last_child_reaped", 3.1),
        ("memory_reset", 1.2),
        ("redo_start", 1.6),
        ("redo_end", 2.4),
        ("ready", 0.9),
        ("first_commit", 1.9),
    ):
        at += typical * random_.lognormvariate(0, 0.32) * (random_.uniform(4, 14) if slow and key == "redo_end" else 1)
        marks[key] = round(at, 4)
    return Recovery(cycle=cycle, epoch=(cycle - 1) // 50 + 1, redo_bytes=random_.randrange(30_000, 900_000), **marks)


def _details(recoveries: tuple[Recovery, ...], cycles: int, hostile: str) -> Details:
    """Two cycles in full, a machine of four states, and a postmaster that keeps what it has for 120 cycles."""
    samples = tuple(range(1, cycles + 1))
    series = Series(
        owner="postmaster", quantity="descriptors", unit="descriptors", cycles=samples,
        lives=tuple((cycle - 1) // 120 for cycle in samples), values=(13.0,) * cycles,
    )  # fmt: skip
    trend = Trend(
        owner="postmaster", quantity="descriptors", unit="descriptors", lives=1, cycles=min(cycles, 120),
        slope=0.0, low=0.0, high=0.0, most=0.02, judged=cycles >= 100,
    )  # fmt: skip
    ways = (("STARTUP", "RUN", cycles), ("RUN", "WAIT", cycles), ("WAIT", "STARTUP", cycles), ("WAIT", "exit", 0))
    return Details(
        timelines=Timelines(
            cycles=cycles,
            source="kernel",
            shown=(_timeline(1, "slowest", 30.0, hostile), _timeline(2, "sample", 20.0, hostile)) if recoveries else (),
            roles=(RoleLives(role="backend", processes=8 * cycles, exited_other=8 * cycles, signals={"SIGQUIT": 7}),),
        ),
        machine=Machine(
            states=("STARTUP", "RUN", "WAIT", "exit"),
            edges=tuple(Edge(source=a, target=b, causes=(f"made up {hostile}".strip(),), taken=n) for a, b, n in ways),
        ),
        resources=Resources(series=(series,), trends=(trend,)),
    )


def _timeline(cycle: int, reason: str, end: float, hostile: str) -> Timeline:
    pid = 1000 * cycle
    quit_ = Mark(ms=1.5, signal="SIGQUIT", sender="postmaster")
    child = Mark(ms=0.4, signal="SIGCHLD", sender=f"backend {pid + 1}")
    return Timeline(
        cycle=cycle, epoch=1, reason=reason, begin=-80.0, end=end + 10,
        lanes=(
            Lane(pid=pid, role="postmaster", begin=-80.0, end=end + 10, marks=(child,) * 3, marks_left_out=2),
            Lane(pid=pid + 1, role="backend", begin=-70.0, end=0.1, forked=-70.0, reaped=0.5,
                 ended=f"was terminated by signal 9 {hostile}".strip(),
                 marks=(Mark(ms=0.0, signal="SIGKILL", sender="harness"),)),
            Lane(pid=pid + 2, role="walwriter", begin=-80.0, end=3.0, reaped=3.2, ended="exited with exit code 2",
                 marks=(quit_,)),
            Lane(pid=pid + 3, role="startup", begin=6.0, end=end, forked=6.0, reaped=end + 0.2,
                 ended="exited with exit code 0"),
        ),
        states=(
            StateSpan(state="RUN", kind="serving", begin=-80.0, end=0.6),
            StateSpan(state="WAIT", kind="stopping", begin=0.6, end=5.0),
            StateSpan(state="STARTUP", kind="starting", begin=5.0, end=end),
        ),
        blows=(BlowMark(ms=0.0, pid=pid + 1, role="backend", fault="kill-child", landed=True),),
    )  # fmt: skip


def _write_events(run: RunDirectory, random_: random.Random, cycles: int) -> None:
    t = 1_000_000_000
    with run.kernel_writer() as kernel, run.harness_writer() as harness:
        kernel.append({"t": t, "ev": "witness", "kind": "tracefs", "selftest": "passed"})
        for cycle in range(1, cycles + 1):
            t += 50_000_000
            role = random_.choice(["backend", "backend", "backend", "checkpointer", "walwriter", "bgwriter"])
            fault = random_.choice(["kill-child", "kill-child", "kill-role", "kill-several", "quit-by-hand"])
            harness.append({"t": t, "ev": "cycle_begin", "cycle": cycle, "epoch": (cycle - 1) // 50 + 1})
            harness.append(
                {"t": t + 9, "ev": "fault", "cycle": cycle, "fault": fault, "role": role, "pid": 100 + cycle}
            )
            kernel.append({"t": t + 9, "ev": "exit", "pid": 100 + cycle, "code": None, "signal": 9, "group_dead": True})
    worker = run.history / "w-101.jsonl"
    worker.write_bytes(b'\n{"t":1,"pid":101,"ev":"invoke","op":1}\n{"t":2,"pid":101,"ev":"ok","op":1}\n{"t":3,"pid":1')


def _verdict(
    run: RunDirectory, status: Status, cycles: int, seed: int, recoveries: tuple[Recovery, ...], hostile: str
) -> Verdict:
    failing = {"durability": 3, "wal_replay": 1} if status is Status.FINDING else {}
    unseen = {"fan_out", "reaped"} if status is Status.INCONCLUSIVE else set()
    rows = []
    for name, title, slack in ORACLES:
        failures = failing.get(name, 0)
        trials = 0 if name in unseen else cycles * (41 if name in ("durability", "atomicity") else 1)
        state = OracleStatus.NOT_JUDGED if name in unseen else OracleStatus.FAILED if failures else OracleStatus.HELD
        rows.append(
            OracleRow(
                name=name,
                title=title,
                status=state,
                trials=trials,
                failures=failures,
                worst_slack_ms=None if name in unseen else slack,
                slack="made up" if slack is not None and name not in unseen else "",
                reason=f"needs the kernel's account of signals {hostile}".strip() if name in unseen else "",
                bounds=(bound("trial", trials, failures),) if trials else (),
            )
        )
    conclusive = cycles - (cycles // 5 if status is Status.INCONCLUSIVE else cycles // 150)
    interrupted = status is Status.INTERRUPTED
    decided, code = decide(rows, cycles=cycles, conclusive_cycles=conclusive, interrupted=interrupted)
    assert decided is status, (decided, status)
    reproduce = f"crashbed replay out/{run.path.name} --cycle 17"
    findings = tuple(
        Finding(
            oracle="durability" if number < 3 else "wal_replay",
            cycle=17 + number,
            message=f"{number + 2} acknowledged operations are not in the recovered server. {hostile}".strip()
            if number < 3
            else "Redo ended at 0/1C2F8A0 without changing a page, though 212 records followed the redo point.",
            evidence=(
                "history/w-101.jsonl: op 73014444053 invoke t=1017.204113 transfer 17 -> 204, 35",
                "history/w-101.jsonl: op 73014444053 ok     t=1017.206940",
                f"history/observed.jsonl: cycle 17: no row for op 73014444053 {hostile}".strip(),
            ),
            reproduce=reproduce,
        )
        for number in range(4 if failing else 0)
    )
    acknowledged = cycles * 972
    lost = 9 if failing else 0
    return Verdict(
        status=status,
        exit_code=code,
        seed=seed,
        target="built-in server",
        workload="bank",
        cycles=cycles,
        conclusive_cycles=conclusive,
        epochs=(cycles + 49) // 50,
        oracles=tuple(rows),
        findings=findings,
        inconclusive=(
            Inconclusive(
                reason="fewer than 20 acknowledged commits before the kill",
                cycles=cycles - conclusive,
                remedy="raise --operations or let the kill come later",
            ),
        )
        if conclusive < cycles
        else (),
        not_judged=(
            NotJudged(
                what="SIGQUIT fan-out",
                reason="no tracefs on this machine " + hostile,
                remedy="run as root, or mount tracefs and give this user access",
            ),
            NotJudged(
                what="Reaping by the postmaster",
                reason="no tracefs on this machine",
                remedy="run as root, or mount tracefs and give this user access",
            ),
        )
        if unseen
        else (),
        bounds=(
            bound("cycle", cycles, 3 if failing else 0),
            bound("epoch", (cycles + 49) // 50, 1 if failing else 0),
        ),
        stop_rule=f"{cycles} kills, fixed before the run",
        ledger=Ledger(
            ok=Fate(committed=acknowledged - lost, absent=lost),
            failed=Fate(absent=cycles * 3),
            unknown=Fate(committed=cycles * 2 + 3, absent=cycles * 5),
        ),
        loads=(
            ReachedLoad(
                workload=f"bank {hostile}".strip(),
                asked={"rollback": cycles * 3, "transfer": cycles * 979},
                acknowledged=acknowledged,
                failures=(Failures(sqlstate="40000", kind=FailureKind.ROLLED_BACK, operations=cycles * 3),),
                unknown=cycles * 7,
                rates=(
                    LoadRate(
                        workers=8, cycles=cycles, acknowledged=cycles * 970, seconds=cycles * 0.5, per_second=1940.0
                    ),
                ),
            ),
        ),
        coverage=Coverage(
            hits=tuple(
                PointHits(point=point, role=role, hits=(number * 7919 + weight) * cycles % 1_000_003)
                for number, point in enumerate(POINTS, start=1)
                for weight, role in enumerate(("backend", "checkpointer", "startup", "walwriter"))
                if (number + weight) % 3
            ),
            never_hit=NEVER,
        ),
        recoveries=recoveries,
        environment=Environment(
            kernel="Linux 6.1.0-18-amd64",
            python="CPython 3.11.7",
            python_build="PGO, LTO",
            cpu="Example processor at 2.5 GHz",
            cpu_count=2,
            disk="/dev/vda1",
            filesystem="ext4, relatime",
            versions={"psycopg": "3.3.9", "scipy": "1.17.1"},
        ),
        reproduce=f"crashbed run --workload bank --backends 8 --kills {cycles} --seed {seed}",
        exactness="the same plan; which instruction a kill lands on differs",
        started="2025-11-20T12:24:00Z",
        finished="2025-11-20T12:31:08Z",
        seconds=428.2,
    )
