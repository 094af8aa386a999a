"""The load of a run counted a second time, straight from the lines of its histories and from the harness's records.

It shares no code with `chaos.reached_load`: neither operations nor cycles, and it sorts events instead of folding them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from reports.records import read_records
from reports.rundir import RunDirectory
from tests.support.campaigns import plans_of


def counted(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """For each workload: asked by kind, acknowledged, failed by SQLSTATE, unknown, and the rate's cycles, acknowledged
    and seconds, of a run with one number of workers and without contradictions."""
    plans = plans_of(run)
    blows: dict[int, int] = {}
    for record in run.harness_records():
        if record["ev"] == "fault" and record["outcome"] == "landed":
            blows.setdefault(record["cycle"], record["t"])
    events: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for path in run.history_files():
        for record in read_records(path):
            events[record["op"] >> 32].append(dict(record))
    found: dict[str, dict[str, Any]] = {}
    for cycle, records in events.items():
        plan = plans[cycle]
        told = [record for record in records if record["ev"] != "invoke"]
        asked = [record for record in records if record["ev"] == "invoke"]
        of = found.setdefault(
            plan["workload"],
            {"asked": Counter(), "acknowledged": 0, "failed": Counter(), "unknown": 0, "rate": [0, 0, 0.0]},
        )
        of["asked"].update(record["kind"] for record in asked)
        of["failed"].update(record["sqlstate"] for record in told if record["ev"] == "fail")
        acknowledged = [record for record in told if record["ev"] == "ok"]
        of["acknowledged"] += len(acknowledged)
        of["unknown"] += len(asked) - sum(record["ev"] in ("ok", "fail") for record in told)
        # The sign of life after the recovery has the number behind the client outside.
        load = sorted(
            (record for record in records if record["op"] >> 20 & 0xFFF <= len(plan["worker_seeds"])),
            key=lambda record: record["t"],
        )
        blow = blows.get(cycle, load[-1]["t"])
        until_blow = [record for record in load if record["t"] <= blow]
        all_told = len(until_blow) == len(load) and 2 * sum(r["ev"] == "invoke" for r in load) == len(load)
        end = load[-1]["t"] if all_told else blow
        of["rate"][0] += 1
        of["rate"][1] += sum(record["ev"] == "ok" for record in until_blow)
        of["rate"][2] += (end - load[0]["t"]) / 1e9
    return found


def told(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """What the verdict says of the same."""
    found = {}
    for load in run.read_verdict().loads:
        (rate,) = load.rates
        assert abs(rate.per_second * rate.seconds - rate.acknowledged) < 1e-6
        failed: Counter[str] = Counter()
        for failure in load.failures:
            failed[failure.sqlstate] += failure.operations
        found[load.workload] = {
            "asked": Counter(load.asked),
            "acknowledged": load.acknowledged,
            "failed": failed,
            "unknown": load.unknown,
            "rate": [rate.cycles, rate.acknowledged, rate.seconds],
        }
    return found


def check(run: RunDirectory) -> None:
    """Assert that the verdict tells of each workload what the histories say."""
    by_hand, by_verdict = counted(run), told(run)
    seconds = {name: (of["rate"].pop(), by_verdict[name]["rate"].pop()) for name, of in by_hand.items()}
    assert by_verdict == by_hand
    for name, (counted_s, told_s) in seconds.items():
        assert abs(counted_s - told_s) < 1e-6 and counted_s > 0, name
