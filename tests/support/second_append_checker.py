"""A second checker for append, written from its rules and not from the first: SQL over a history and the lists observed.

Shares no code with `workloads.append` and the oracles. Where the two disagree, one of them is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCHEMA = """
create table asked (op, kind); create table told (op, answer); create table wanted (op, slot, element);
create table base (key, place, element); create table opened (slot, key, length);
create table capacity (n); create table covers (after);
create table list (id, kind, key, slot, length); create table held (id, place, element);
create view found as select element / 4 as op, slot, element from held join list using (id)
    where element / 4 > (select after from covers);
create view known as
    with recursive upwards (slot, key, last) as (
        -- One that was full already and was closed since has nothing new, and need not be shown.
        select o.slot, o.key + case when o.length >= (select n from capacity) and o.key < max(l.key)
                and o.key not in (select key from list) then (select count(*) from opened) else 0 end, max(l.key)
            from opened o join list l on l.slot = o.slot and l.kind = 'open' group by o.slot
        union all select slot, key + (select count(*) from opened), last from upwards where key < last)
    select slot, key from upwards where key <= last;
"""
TORN = """
select distinct op from asked join found f using (op) where not exists (
        select 1 from wanted w where w.op = f.op and w.slot = f.slot and w.element = f.element)
    or (select count(*) from found g where g.op = f.op and g.element = f.element) > 1
union select op from wanted w where op in (select op from found) and element not in (
    select element from found f where f.op = w.op)
"""
QUESTIONS = {
    "lost": """select distinct op from told join wanted using (op)
        where answer = 'ok' and op not in (select op from found)""",
    "torn": TORN,
    "risen": f"""select op from asked left join told using (op) where (answer = 'fail' or kind = 'rollback')
        and op in (select op from found) and op not in ({TORN})""",
    "invented": "select op from found where op not in (select op from asked)",
    "there twice": "select key from list group by key having count(*) > 1",
    "open twice": "select slot from list where kind = 'open' group by slot having count(*) > 1",
    "none open": "select slot from opened where slot not in (select slot from list where kind = 'open')",
    "set back": """select o.key from opened o
        where o.key > (select max(key) from list l where l.slot = o.slot and l.kind = 'open')""",
    "gone": "select key from known where key not in (select key from list)",
    "never opened": """select key from list where key not in (select key from known)
        and slot in (select slot from list where kind = 'open')""",
    "wrong length": """select key from list where kind = 'closed' and length <> (select n from capacity)
        union select key from list where kind = 'open' and length > (select n from capacity)""",
    "changed": """select base.key from base join list using (key) where not exists (
        select 1 from held where held.id = list.id and held.place = base.place and held.element = base.element)""",
}


def elements_of(stored: bytes) -> list[int]:
    return [int.from_bytes(stored[at : at + 8], "big") for at in range(0, len(stored), 8)]


def check(
    records: Iterable[Mapping[str, Any]],
    before: Sequence[tuple[int, bytes]],
    rows: Iterable[Sequence[Any]],
    after: int,
    capacity: int,
) -> dict[str, set[int]]:
    """What is wrong, by question; empty sets are left out.

    `records` of histories; `before`, key and elements of each list that was open at the observation that this one
    continues; `rows` as `append_observe(after)` gives them.
    """
    database = sqlite3.connect(":memory:")
    insert, many = database.execute, database.executemany
    try:
        database.executescript(SCHEMA)
        insert("insert into capacity values (?)", (capacity,))
        insert("insert into covers values (?)", (after,))
        for key, stored in before:
            insert("insert into opened values (?,?,?)", (key % len(before), key, len(stored) // 8))
            many("insert into base values (?,?,?)", [(key, *pair) for pair in enumerate(elements_of(stored))])
        for id_, (kind, key, stored) in enumerate(rows):
            insert("insert into list values (?,?,?,?,?)", (id_, kind, key, key % len(before), len(stored) // 8))
            many("insert into held values (?,?,?)", [(id_, *pair) for pair in enumerate(elements_of(stored))])
        for record in (record for record in records if record["op"] > after):
            if record["ev"] == "invoke":
                insert("insert into asked values (?,?)", (record["op"], record["kind"]))
                wanted = [(record["op"], *step) for step in record["steps"] if step[1] is not None]
                many("insert into wanted values (?,?,?)", wanted)
            elif record["ev"] in ("ok", "fail"):
                insert("insert into told values (?,?)", (record["op"], record["ev"]))
        found = {name: {row[0] for row in database.execute(query)} for name, query in QUESTIONS.items()}
        return {name: wrong for name, wrong in found.items() if wrong}
    finally:
        database.close()
