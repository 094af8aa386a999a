"""A SIGKILL at any step of a transaction over lists accuses nobody.

The workload's own loop runs against a database in memory that keeps its word, with errors planted in its way, and is
ended at any step, worker after worker. Whatever the moment, no oracle of data and no oracle of isolation may find
anything: what is there without an answer is allowed, and what is gone without one too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.oracles import isolation
from chaos.oracles.ledger import Ledger, judge_observation
from tests.support.bank_history import ORACLES, failing
from tests.support.memory_session import Clock, Database, Killed, MemorySession, OrderlyError
from workloads.append import Append
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.worker import run_requests
from workloads.workload import EVERYTHING, operation_id

LISTS = Append(slots=2, capacity=5)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(
    seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 200), min_size=4, max_size=4),
    errors=st.lists(st.tuples(st.sampled_from(["get", "update", "insert", "commit"]), st.integers(1, 10)), max_size=2),
    sqlstate=st.sampled_from(["40001", "40P01", "55P03", "57P01", "XX000"]),
    after=st.booleans(),
)
def test_a_sigkill_at_any_step_accuses_nobody(
    seeds: list[int], steps: list[int], errors: list[tuple[str, int]], sqlstate: str, after: bool
) -> None:
    database = Database()
    LISTS.setup(MemorySession(database))
    # Only an error that proves nothing may come from a COMMIT that took effect.
    after = after and sqlstate in ("57P01", "XX000")
    with tempfile.TemporaryDirectory() as directory:
        for worker, (seed, life) in enumerate(zip(seeds, steps, strict=False)):
            session = MemorySession(database, {at: OrderlyError(sqlstate) for at in errors}, errors_after=after)
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            try:
                requests = LISTS.requests(worker, operation_id(0, worker, 0), 12, seed)
                run_requests(LISTS.perform, session, requests, writer, clock.check_interrupts)
            except (Killed, OrderlyError):
                pass
            finally:
                database.steps_to_live = None
                writer.close()
        history = read_history(parse_records(path.read_bytes())[0] for path in sorted(Path(directory).iterdir()))
    rows = list(LISTS.observe(MemorySession(database), EVERYTHING))
    observation = LISTS.observation(rows, EVERYTHING, None)
    judgement = judge_observation(LISTS, history, first_cycle=0, cycle=0, t=0, observation=observation)
    ledger = Ledger(LISTS, [judgement])
    assert failing({name: oracle(ledger) for name, oracle in ORACLES.items()}) == set()
    isolated = isolation.judge(ledger)
    assert isolated is not None and isolated.failures == 0
    assert history.contradictions == ()
