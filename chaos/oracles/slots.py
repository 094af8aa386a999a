"""The oracle of slots: each is given to one child at a time and taken back once, after the child was reaped.

The server's journal says which child got which slot and when it was released; the kernel says when that child
was forked and when wait4 returned it. A slot released earlier could be given to a newcomer while its old owner
still writes to the memory; one released twice, or never, corrupts the pool (specification 3.3, checklist 73).
"""

from __future__ import annotations

from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import PENDING_NS, Reign, lived, reigns, when
from chaos.witness.account import Process, surely_after


class Slots:
    name = "slots"
    title = "each slot is released exactly once, after its child was reaped"
    needs: tuple[Source, ...] = ("kernel", "server")

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            if reign.journal:
                _Books(reign, tally).judge()
        return tally.result(self, slack="from the wait4 of a child to the release of its slot")


class _Books:
    """The slots of one postmaster, followed through its journal."""

    def __init__(self, reign: Reign, tally: Tally) -> None:
        self._reign = reign
        self._tally = tally
        self._owners: dict[int, tuple[int, Process | None, ServerRecord]] = {}
        self._forked: set[int] = set()

    def judge(self) -> None:
        for record in self._reign.journal:
            if record.ev == "fork":
                self._assigned(record)
            elif record.ev == "slot_released":
                self._released(record)
        self._left_over()
        self._unknown_to_the_journal()

    def _assigned(self, record: ServerRecord) -> None:
        process = self._reign.account.at(record.child, record.t)
        if process is not None:
            self._forked.add(process.order)
        if not record.slot:
            return
        owner = self._owners.get(record.slot)
        if owner is not None:
            self._tally.trial()
            self._tally.fail(
                record.t,
                f"slot {record.slot} was given to PID {record.child} while PID {owner[0]} still had it",
                _line(owner[2]),
                _line(record),
            )
        self._owners[record.slot] = (record.child, process, record)

    def _released(self, record: ServerRecord) -> None:
        owner = self._owners.pop(record.slot, None)
        if owner is None or owner[0] != record.child:
            self._tally.trial()
            had = f"PID {owner[0]} had it" if owner is not None else "nobody had it"
            self._tally.fail(
                record.t, f"slot {record.slot} was released for PID {record.child}, and {had}", _line(record)
            )
            return
        child, process, assigned = owner
        if not self._tally.whole(assigned.t, record.t):
            return
        reaped = process.reaped_t if process is not None and process.reaped_by == self._reign.postmaster.pid else None
        if reaped is None or surely_after(reaped, record.t):
            self._tally.trial()
            seen = f"wait4 returned it {when(reaped)}" if reaped is not None else "wait4 never returned it"
            self._tally.fail(
                record.t,
                f"slot {record.slot} was released before PID {child} was reaped",
                _line(assigned),
                _line(record),
                f"kernel: {seen}",
            )
            return
        self._tally.trial(slack_ns=record.t - reaped)

    def _left_over(self) -> None:
        """Slots never released although their child was reaped."""
        reign = self._reign
        for slot, (child, process, assigned) in self._owners.items():
            reaped = process.reaped_t if process is not None else None
            if reaped is None or process is None or process.reaped_by != reign.postmaster.pid:
                continue  # it lives, or ended with the postmaster
            if reign.postmaster.exit_t is not None and reign.postmaster.signal is not None:
                self._tally.leave("the postmaster was killed before it could release the slot")
            elif reign.postmaster.exit_t is None and reign.account.end - reaped < PENDING_NS:
                self._tally.leave("the account ended before the slot could be released")
            elif self._tally.whole(assigned.t, reaped):
                self._tally.trial()
                self._tally.fail(
                    reaped,
                    f"slot {slot} of PID {child} was never released",
                    _line(assigned),
                    f"kernel: wait4 returned it {when(reaped)}",
                )

    def _unknown_to_the_journal(self) -> None:
        reign = self._reign
        for child in reign.children:
            process = child.process
            if process.order in self._forked or process.forked_t is None:
                continue
            near_the_end = min(reign.end, reign.account.end) - process.forked_t < PENDING_NS
            if near_the_end or not reign.account.whole(process.forked_t, process.forked_t):
                continue
            self._tally.trial()
            self._tally.fail(
                process.forked_t,
                f"the postmaster forked PID {process.pid} and its journal does not know it",
                f"kernel: {lived(child)}",
            )


def _line(record: ServerRecord) -> str:
    return f"server: {record.ev} slot {record.slot} child {record.child} {when(record.t)}"
