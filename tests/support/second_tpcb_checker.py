"""A second checker for tpcb, written from its rules and not from the first: SQL over a history and the rows observed.

Shares no code with `workloads.tpcb` and the oracles. Where the two disagree, one of them is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Findings:
    lost: frozenset[int]
    torn: frozenset[int]
    risen: frozenset[int]
    invented: frozenset[int]
    wrong: frozenset[tuple[str, int]]
    sums: frozenset[str]
    overwritten: frozenset[int]


SCHEMA = """
create table asked (op, kind, worker, account, teller, branch, delta);
create table told (op, answer);
create table tpcb_history (op, worker, account, teller, branch, delta, balance);
create table held (kind, id, balance);
create view added as
    select 'tpcb_account' as kind, account as id, delta from tpcb_history
    union all select 'tpcb_teller', teller, delta from tpcb_history
    union all select 'tpcb_branch', branch, delta from tpcb_history;
"""
LOST = "select op from told where answer = 'ok' and op not in (select op from tpcb_history)"
TORN = """
select op from asked join tpcb_history h using (op) group by op having count(*) > 1 or max(
    asked.worker is not h.worker or asked.account is not h.account or asked.teller is not h.teller
    or asked.branch is not h.branch or asked.delta is not h.delta)
"""
RISEN = f"""
select asked.op from asked join tpcb_history using (op) left join told using (op)
where (answer = 'fail' or kind = 'rollback') and asked.op not in ({TORN})
"""
INVENTED = "select op from tpcb_history where op not in (select op from asked)"
WRONG = """
select kind, id from held where balance <> (
    select coalesce(sum(delta), 0) from added where added.kind = held.kind and added.id = held.id)
"""
SUMS = """
select kind from held group by kind having sum(balance) <> (select coalesce(sum(delta), 0) from tpcb_history)
"""
CHANGED = """
select id, balance from held where kind = 'tpcb_account' and id in (select account from tpcb_history)
"""
STEPS = "select balance - delta, balance from tpcb_history where account = ?"


def is_ordered(steps: Sequence[tuple[int, int]], begin: int, end: int) -> bool:
    """Whether all steps, in some order, lead from one balance to the other: tried out."""

    @cache
    def from_here(at: int, left: tuple[tuple[int, int], ...]) -> bool:
        if not left:
            return at == end
        return any(from_here(s[1], left[:n] + left[n + 1 :]) for n, s in enumerate(left) if s[0] == at)

    return from_here(begin, tuple(sorted(steps)))


def check(records: Iterable[Mapping[str, Any]], rows: Iterable[Sequence[Any]]) -> Findings:
    """Records of histories; rows as `tpcb_observe` gives them, from an epoch's beginning."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(SCHEMA)
        for record in records:
            if record["ev"] == "invoke":
                names = ("op", "kind", "worker", "account", "teller", "branch", "delta")
                database.execute("insert into asked values (?,?,?,?,?,?,?)", [record[name] for name in names])
            elif record["ev"] in ("ok", "fail"):
                database.execute("insert into told values (?,?)", (record["op"], record["ev"]))
        for kind, id_, worker, account, teller, delta, branch, balance in rows:
            if kind == "tpcb_history":
                row = (id_, worker, account, teller, branch, delta, balance)
                database.execute("insert into tpcb_history values (?,?,?,?,?,?,?)", row)
            else:
                database.execute("insert into held values (?,?,?)", (kind, id_, balance))

        def column(query: str) -> frozenset[Any]:
            return frozenset(row[0] if len(row) == 1 else row for row in database.execute(query))

        overwritten = set()
        for account, balance in database.execute(CHANGED):
            if not is_ordered(database.execute(STEPS, (account,)).fetchall(), 0, balance):
                overwritten.add(account)
        queries = (LOST, TORN, RISEN, INVENTED, WRONG, SUMS)
        return Findings(*(column(query) for query in queries), frozenset(overwritten))
    finally:
        database.close()
