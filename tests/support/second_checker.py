"""A second checker for the bank, written from its rules and not from the first: SQL over a history and rows.

Shares no code with `workloads.bank` and the oracles. Where the two disagree, one of them is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Findings:
    lost: frozenset[int]
    torn: frozenset[int]
    risen: frozenset[int]
    invented: frozenset[int]
    wrong_accounts: frozenset[int]


SCHEMA = """
create table asked (op integer, kind text, worker, source, target, amount);
create table told (op integer, answer text);
create table found (op integer, worker, source, target, amount);
create table money (account integer, before integer, after integer);
"""

LOST = """
select told.op from told left join found on found.op = told.op where told.answer = 'ok' and found.op is null
"""
TORN = """
select asked.op from asked join found using (op) group by asked.op
having count(*) > 1 or max(found.worker is not asked.worker or found.source is not asked.source
    or found.target is not asked.target or found.amount is not asked.amount)
"""
RISEN = f"""
select asked.op from asked join found using (op) left join told using (op)
where (told.answer = 'fail' or asked.kind = 'rollback') and asked.op not in ({TORN})
"""
INVENTED = "select op from found where op not in (select op from asked)"
WRONG = """
select account from money where after is null or after <> before
    - (select coalesce(sum(amount), 0) from found where source = account)
    + (select coalesce(sum(amount), 0) from found where target = account)
"""


def check(
    records: Iterable[Mapping[str, Any]],
    rows: Iterable[Iterable[int]],
    before: Mapping[int, int],
    after: Mapping[int, int],
) -> Findings:
    """Records of histories, rows of bank_transfer, balances before and after."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(SCHEMA)
        for record in records:
            if record["ev"] == "invoke":
                names = ("op", "kind", "worker", "source", "target", "amount")
                database.execute("insert into asked values (?,?,?,?,?,?)", [record[name] for name in names])
            elif record["ev"] in ("ok", "fail"):
                database.execute("insert into told values (?,?)", (record["op"], record["ev"]))
        database.executemany("insert into found values (?,?,?,?,?)", [tuple(row) for row in rows])
        accounts = sorted({*before, *after})
        money = [(account, before.get(account, 0), after.get(account)) for account in accounts]
        database.executemany("insert into money values (?,?,?)", money)

        def column(query: str) -> frozenset[int]:
            return frozenset(row[0] for row in database.execute(query))

        return Findings(column(LOST), column(TORN), column(RISEN), column(INVENTED), column(WRONG))
    finally:
        database.close()
