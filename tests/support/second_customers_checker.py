"""A second checker for customers, written from its rules and not from the first: SQL over a history and the rows observed.

Shares no code with `workloads.customers`. Where the two disagree, one of them is wrong. It judges from the beginning.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCHEMA = """
create table asked (op, kind, action, subject, amount); create table told (op, answer);
create table person (id, house, moves, email); create table email (email, person);
create table orders (id, customer, total);
create table line (id, quantity, price); create table log (op, action, subject, amount); create table made (id);
"""
TORN = """
select op from asked join log l using (op) group by op
having count(*) > 1 or max(asked.action <> l.action or asked.subject <> l.subject or asked.amount <> l.amount)
"""
QUESTIONS = {
    "lost": "select op from told where answer = 'ok' and op not in (select op from log)",
    "torn": TORN,
    "risen": f"""select asked.op from asked join log using (op) left join told using (op)
        where (answer = 'fail' or kind = 'rollback') and asked.op not in ({TORN})""",
    "invented": "select op from log where op not in (select op from asked)",
    "unlogged": """
        select id from orders o where id >= 0 and not exists (
            select 1 from log where action = 'place' and op = o.id and subject = o.customer and amount = o.total)
        union select op from log where action = 'place' and not exists (
            select 1 from orders o where o.id = op and o.customer = subject and o.total = amount)
        union select id from person where id >= 0 and id not in (
            select op from log where action in ('register', 'duplicate'))
        union select op from log where action in ('register', 'duplicate') and op not in (select id from person)""",
    "moved": """
        select id from person p where moves <> (select count(*) from log where action = 'move' and subject = p.id)
        or house not in (select amount from log where action = 'move' and subject = p.id union
            select 0 where not exists (select 1 from log where action = 'move' and subject = p.id))""",
    "quantities": """
        select id from line l where id < 0 and quantity not in (
            select amount from log where action = 'change' and subject = l.id union
            select 1 where not exists (select 1 from log where action = 'change' and subject = l.id))""",
    "totals": """
        select id from orders o where total <> (
            select coalesce(sum(quantity * price), 0) from line where id between o.id * 4 and o.id * 4 + 3)
        union select (id - (id % 4 + 4) % 4) / 4 from line l where not exists (
            select 1 from orders o where l.id between o.id * 4 and o.id * 4 + 3)""",
    "strangers": """
        with was_made (what, id) as (
            select 'person', id from made union select 'order', id from made
            union select 'order line', id * 4 from made union select 'order line', id * 4 + 1 from made),
        is_there (what, id) as (
            select 'person', id from person union all select 'order', id from orders
            union all select 'order line', id from line union all select 'row', op from log)
        select what || ' ' || id from was_made where (what, id) not in (select what, id from is_there)
        union select what || ' ' || id from is_there where id < 0 and (what, id) not in (select what, id from was_made)
        union select what || ' ' || id from is_there group by what, id having count(*) > 1
        union select 'operation ' || op from log where action = 'duplicate'""",
    "emails": """
        select email from person group by email having count(*) > 1
        union select email from email group by email having count(*) > 1
        union select email from person p where not exists (
            select 1 from email e where e.email = p.email and e.person = p.id)
        union select email from email e where not exists (
            select 1 from person p where e.email = p.email and e.person = p.id)""",
}


def check(records: Iterable[Mapping[str, Any]], rows: Iterable[Sequence[Any]], customers: int) -> dict[str, set[Any]]:
    """Records of histories; rows as `customers_observe` gives them. What is wrong, by question; empty sets are left out."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(SCHEMA)
        database.executemany("insert into made values (?)", [(-n - 1,) for n in range(customers)])
        for record in records:
            if record["ev"] == "invoke":
                subject, amount = record["op"], 0
                if record["action"] in ("place", "move"):
                    subject = record["customer"]
                    amount = record.get("house") or sum(q * p for q, p in record["lines"])
                elif record["action"] == "change":
                    subject, amount = record["line"], record["quantity"]
                row = (record["op"], record["kind"], record["action"], subject, amount)
                database.execute("insert into asked values (?,?,?,?,?)", row)
            elif record["ev"] in ("ok", "fail"):
                database.execute("insert into told values (?,?)", (record["op"], record["ev"]))
        for table, key, one, other, text in rows:
            into, values = {
                "customers_person": ("person", (key, one, other, text)),
                "customers_email": ("email", (text, key)),
                "customers_order": ("orders", (key, one, other)),
                "customers_line": ("line", (key, one, other)),
                "customers_log": ("log", (key, text, one, other)),
            }[table]
            database.execute(f"insert into {into} values ({','.join('?' * len(values))})", values)
        found = {name: {row[0] for row in database.execute(query)} for name, query in QUESTIONS.items()}
        return {name: wrong for name, wrong in found.items() if wrong}
    finally:
        database.close()
