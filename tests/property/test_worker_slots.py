"""The registrations of background workers against a model: backends, the postmaster and crashes in any order.

What could go wrong: a slot that nobody frees (after eight of them no worker can be registered for the rest of the
server's life), a slot that two registrations share, a worker that is started while it runs, a handle that speaks of
somebody else's worker, a waiter that never hears of the end. The postmaster's list and the shared slots are changed by
different processes; so the model has both, over a real region, and lets the postmaster look whenever it likes.
"""

from __future__ import annotations

from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.background_worker import NEVER_RESTART, BackgroundWorker
from supervisor.config import Settings
from supervisor.postmaster import worker_rules as rules
from supervisor.postmaster.events import ExitOutcome
from supervisor.postmaster.values import PMState, State
from supervisor.shmem.region import Region
from supervisor.shmem.worker_slots import WorkerHandle, WorkerSlots, WorkerStatus, shmem_areas

SETTINGS = Settings(max_worker_processes=3)
RUN = State(pm_state=PMState.RUN)
CRASHED = State(pm_state=PMState.WAIT_BACKENDS, fatal_error=True)
CLIENT = 50


class WorkerSlotsMachine(RuleBasedStateMachine):
    """The postmaster's list over the slots, beside what really runs."""

    @initialize()
    def make(self) -> None:
        self.workers: rules.Workers = ()
        self.registrations = 0
        self.handles: list[WorkerHandle] = []
        self.running: dict[int, int] = {}  # pid: registration
        self.over: set[int] = set()  # registrations that may not run again
        self.pid = 1000
        self.now_ns = 0
        self._new_region()

    def _new_region(self) -> None:
        self.region = Region.create(shmem_areas(SETTINGS))
        self.slots = WorkerSlots(self.region, SETTINGS)
        for one in self.workers:
            assert self.slots.fill(one.worker) == WorkerHandle(one.slot, 1)

    def teardown(self) -> None:
        if hasattr(self, "region"):
            self.region.close()

    def carry_out(self, effects: tuple[rules.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case rules.Report(slot, pid, _):
                    self.slots.set_pid(slot, pid)
                case rules.Added(one):
                    self.registrations = one.number
                case rules.Forgotten(one):
                    assert one.pid == 0, "a worker that runs was forgotten"
                    self.over.add(one.number)
                    self.slots.free(one.slot)
                case rules.Discard(slot, _, _):
                    self.slots.free(slot)
                case rules.Terminate(pid):
                    assert pid in self.running, "SIGTERM to a process that is no worker"

    @rule(restart_s=st.sampled_from([NEVER_RESTART, 0, 1]))
    def register(self, restart_s: int) -> None:
        full = len(self.slots.claims()) == SETTINGS.max_worker_processes
        worker = BackgroundWorker(name="w", library="l", function="f", restart_time_s=restart_s, notify_pid=CLIENT)
        handle = self.slots.fill(worker)
        assert (handle is None) == full, "a free slot was not found, or a slot in use was taken"
        if handle is not None:
            assert handle not in self.handles, "two registrations share a handle"
            self.handles.append(handle)
            assert self.slots.status(handle) == (WorkerStatus.NOT_YET_STARTED, 0)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def ask_for_an_end(self, data: st.DataObject) -> None:
        self.slots.request_termination(data.draw(st.sampled_from(self.handles)))

    @rule()
    def look_at_the_slots(self) -> None:
        self.workers, effects = rules.slots_changed(
            self.workers,
            self.slots.claims(),
            state=RUN,
            clients=frozenset({CLIENT}),
            next_number=self.registrations + 1,
        )
        self.carry_out(effects)

    @rule(wait_s=st.sampled_from([0, 1]), forks=st.booleans())
    def end_a_pass(self, wait_s: int, forks: bool) -> None:
        self.now_ns += wait_s * 1_000_000_000
        self.workers, effects, due = rules.launch_pass(self.workers, RUN, self.now_ns)
        self.carry_out(effects)
        for number in due:
            if not forks:
                self.workers = rules.start_failed(self.workers, number, self.now_ns)
                break
            assert number not in self.running.values(), "a worker was started while it runs"
            assert number not in self.over, "a worker was started again that was done"
            self.pid += 1
            self.running[self.pid] = number
            self.workers, effects = rules.started(self.workers, number, self.pid)
            self.carry_out(effects)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from([ExitOutcome.ORDERLY_0, ExitOutcome.ORDERLY_1]))
    def exit_in_order(self, data: st.DataObject, outcome: ExitOutcome) -> None:
        pid = data.draw(st.sampled_from(sorted(self.running)))
        number = self.running.pop(pid)
        self.workers, effects = rules.exited(self.workers, pid, outcome, slot_clean=True, state=RUN, now_ns=self.now_ns)
        self.carry_out(effects)
        if outcome is ExitOutcome.ORDERLY_0:
            assert number in self.over

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """All die, one of them first; then the memory is made anew. What was registered and not looked at is lost."""
        for pid in data.draw(st.permutations(sorted(self.running))):
            before = self.workers
            self.workers, effects = rules.exited(
                self.workers, pid, ExitOutcome.CRASH, slot_clean=False, state=CRASHED, now_ns=self.now_ns
            )
            assert (self.workers, effects) == (before, ())
        self.running.clear()
        self.workers, forgotten = rules.after_crash(self.workers)
        self.over.update(one.number for one in forgotten)
        self.handles.clear()
        self.region.close()
        self._new_region()

    @invariant()
    def the_list_says_what_runs(self) -> None:
        if hasattr(self, "workers"):
            assert {one.pid: one.number for one in self.workers if one.pid} == self.running

    @invariant()
    def every_slot_has_one_owner_and_none_is_lost(self) -> None:
        if not hasattr(self, "workers"):
            return
        owned = [one.slot for one in self.workers]
        assert len(owned) == len(set(owned)), "a slot with two owners"
        used = {claim.slot for claim in self.slots.claims()}
        assert set(owned) <= used, "a registered worker without a slot"
        # What is used and not owned was registered since the postmaster last looked, which the next look takes.
        looked, effects = rules.slots_changed(
            self.workers, self.slots.claims(), state=RUN, clients=frozenset(), next_number=self.registrations + 1
        )
        discarded = {effect.slot for effect in effects if isinstance(effect, rules.Discard)}
        assert {one.slot for one in looked} | discarded == used, "a slot that nobody will ever free"

    @invariant()
    def a_running_worker_is_what_its_handle_says(self) -> None:
        if not hasattr(self, "workers"):
            return
        pids = {one.slot: one.pid for one in self.workers if one.pid}
        for handle in self.handles:
            status, pid = self.slots.status(handle)
            if status is WorkerStatus.STARTED:
                assert pids[handle.slot] == pid


TestWorkerSlots = WorkerSlotsMachine.TestCase
TestWorkerSlots.settings = run_settings(max_examples=80, stateful_step_count=50, deadline=None)
