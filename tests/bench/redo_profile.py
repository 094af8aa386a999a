"""`python -m tests.bench.redo_profile [TRANSACTIONS]`: where redo's time goes, function by function, in one process.

The log is that of bank transfers over an engine without a server; it is replayed twice from the same crash, once timed
and once under cProfile. For looking, not for comparing: `python -m tests.bench redo` measures live servers.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import shutil
import sys
import tempfile
import time
from pathlib import Path

from supervisor.config import Settings
from supervisor.engine.recovery.redo import RecoveryResult
from tests.support.engine_rig import Rig
from workloads.bank import Bank

TRANSACTIONS = 10_000
SETTINGS = Settings().replace(shared_buffers=16 * 1024**2, wal_buffers=1024**2, max_wal_size=4 * 1024**3, fsync=False)


def crashed(directory: Path, transactions: int) -> None:
    """A data directory whose server was killed after so many transfers."""
    directory.mkdir()
    rig = Rig(directory, SETTINGS)
    rig.start()
    session, bank = rig.session(), Bank()
    bank.setup(session)
    rig.checkpoint()
    for request in bank.requests(0, 1, transactions, seed=1):
        session.begin()
        bank.perform(session, request)
        session.commit()
    rig.crash()


def replay(crash: Path, directory: Path, profile: cProfile.Profile | None = None) -> tuple[RecoveryResult, float]:
    """Recover a copy of it; the result and the seconds."""
    shutil.copytree(crash, directory)
    rig = Rig(directory, SETTINGS, initialise=False)
    gc.disable()  # as the startup process does
    began = time.monotonic()
    result = rig.start() if profile is None else profile.runcall(rig.start)
    took = time.monotonic() - began
    gc.enable()
    rig.crash()
    return result, took


def main(transactions: int) -> None:
    """Make, replay, print."""
    with tempfile.TemporaryDirectory() as place:
        crash = Path(place) / "crash"
        crashed(crash, transactions)
        for attempt in range(3):
            result, took = replay(crash, Path(place) / f"timed{attempt}")
            megabytes = (result.end_lsn - result.redo_start_lsn) / 1e6
            print(
                f"{result.records} records, {megabytes:.1f} MB, {took:.3f} s: {result.records / took:,.0f} records/s, "
                f"{transactions / took:,.0f} transactions/s, {megabytes / took:.1f} MB/s"
            )
        profile = cProfile.Profile()
        replay(crash, Path(place) / "profiled", profile)
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TRANSACTIONS)
