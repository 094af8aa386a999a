"""Oracles: one rule each, judged from the evidence of a run and from nothing else.

The oracles of data (durability, atomicity, resurrection, invariant, isolation, WAL replay) stand on `ledger`; those of
supervision on `evidence` and `supervision`. `isolation_levels`, `isolation_dependencies` and `isolation_cycles` are the
parts of `isolation`. None of them talks to a server.
"""
