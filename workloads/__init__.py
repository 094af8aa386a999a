"""Workloads: transactions whose fate can be told, and the rules that tell it.

A workload runs inside a server process (preloaded by name, offering `PROCEDURES` to `CALL`) or over any
client connection, and is judged afterwards in a process of the harness. So this package imports nothing of
the others and nothing heavy: the standard library and msgspec, for all of it may live in a server process.

    session     what a workload asks of a database session; errors are known by `.sqlstate` alone
    workload    the contract: requests, operations, outcomes, fates, violations
    procedure   what `CALL` needs to know of a procedure
    history     the records of what was asked and told, written so that a SIGKILL loses none
    worker      the loop that performs requests and writes their history
    calls       the procedures that a workload offers: set up, run requests, observe
    bank        transfers between accounts
    customers   people who order, with unique e-mails
    append      lists that transactions append to and read
    tpcb        pgbench's tables and transaction
"""
