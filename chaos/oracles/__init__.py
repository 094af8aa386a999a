"""Oracles: one rule each, judged from the evidence of a run and from nothing else.

The oracles of data (durability, atomicity, resurrection, invariant, WAL replay) stand on `ledger`; those of
supervision on `evidence` and `supervision`. None of them talks to a server.
"""
