"""Procedures that keep and give back values of the exact types, for tests of what a driver makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from workloads.procedure import REQUIRED, Context, Procedure
from workloads.session import Row

TABLE = "exact"


def _run_setup(context: Context) -> None:
    columns = [("at", "timestamptz"), ("amount", "numeric"), ("price", "numeric(10,2)")]
    context.session.create_table(TABLE, columns, "at")


def _run_keep(context: Context, at: datetime, amount: Decimal | None) -> Iterable[Row]:
    context.session.insert(TABLE, (at, amount, amount))
    return context.session.scan(TABLE)


PROCEDURES = (
    Procedure("exact_setup", (), (), _run_setup),
    Procedure(
        "exact_keep",
        (("at", "timestamptz", REQUIRED), ("amount", "numeric", None)),
        (("at", "timestamptz"), ("amount", "numeric"), ("price", "numeric")),
        _run_keep,
    ),
)
