"""Plan to rows: the only module of `sql` that does anything.

Owns what running a statement means: which function of the server it comes down to, what becomes of a transaction that
a statement leaves open, and how an error of somebody else's code becomes the statement's error. It never encodes a
row and never speaks to the client: rows go to a function that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.errors import (
    INVALID_TRANSACTION_TERMINATION,
    UNDEFINED_OBJECT,
    UNDEFINED_PARAMETER,
    ServerError,
    SessionFatal,
)
from supervisor.host import Host
from supervisor.sql.analyse import (
    BackendPidPlan,
    CallPlan,
    CheckpointPlan,
    Constant,
    Plan,
    ShowAllPlan,
    ShowPlan,
    not_null,
)
from supervisor.sql.procedures import ProcedureContext, TransactionalSession
from supervisor.sql.types import DataType, Value, assign

Row = Sequence[Any]
Parameter = tuple[Value | None, DataType]
"""The value of `$n` and the type it came as."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs plans for one session.

    `parameters` are the session's settings by their proper names, looked up before the server's, of which `show`
    gives the text of one (KeyError for a name that is none) and `names` lists all.
    """

    session: TransactionalSession
    host: Host
    context: ProcedureContext
    parameters: Mapping[str, str]
    show: Callable[[str], str]
    names: Callable[[], list[str]]
    checkpoint: Callable[[], None]

    def run(self, plan: Plan, values: Sequence[Parameter], emit: Callable[[Row], None]) -> str:
        """Runs a plan, gives each row to `emit`, returns the command tag.

        A transaction that is open when the statement ends, well or not, is rolled back. Raises ServerError; what is
        not an error of the statement (SessionFatal, Panic, anything without a SQLSTATE) passes through as it is, and
        then nothing is rolled back here: the session's end decides.
        """
        try:
            tag = self._run(plan, values, emit)
        except SessionFatal:
            raise
        except ServerError:
            self._give_up()
            raise
        except Exception as error:
            # Workload modules have their own exception type and are known by the SQLSTATE alone.
            sqlstate = getattr(error, "sqlstate", None)
            if not isinstance(sqlstate, str):
                raise
            self._give_up()
            raise ServerError(str(error), sqlstate=sqlstate) from error
        if self.session.in_transaction:
            self.session.rollback()
            raise ServerError(
                "the procedure left a transaction open, which was rolled back",
                sqlstate=INVALID_TRANSACTION_TERMINATION,
            )
        return tag

    def _give_up(self) -> None:
        # Also outside a block: the statement may have been stopped with a lock or a snapshot in its hands.
        self.session.fail()
        self.session.rollback()

    def _run(self, plan: Plan, values: Sequence[Parameter], emit: Callable[[Row], None]) -> str:
        match plan:
            case CallPlan():
                self._call(plan, values, emit)
                return "CALL"
            case ShowPlan(name=name):
                emit((self._setting(name),))
                return "SHOW"
            case ShowAllPlan():
                for name in sorted({*self.parameters, *self.names()}, key=str.lower):
                    emit((name, self._setting(name)))
                return "SHOW"
            case CheckpointPlan():
                self.checkpoint()
                return "CHECKPOINT"
            case BackendPidPlan():
                emit((self.context.pid,))
                return "SELECT 1"

    def _call(self, plan: CallPlan, values: Sequence[Parameter], emit: Callable[[Row], None]) -> None:
        arguments = {parameter.name: parameter.default for parameter in plan.defaults}
        for name, argument in plan.arguments:
            if isinstance(argument, Constant):
                arguments[name] = argument.value
                continue
            if argument.number > len(values):
                raise ServerError(f"there is no parameter ${argument.number}", sqlstate=UNDEFINED_PARAMETER)
            value, source = values[argument.number - 1]
            if value is not None:
                value = assign(value, source, argument.target.type)
            arguments[name] = not_null(value, argument.target)
        for row in plan.procedure.run(self.context, **arguments) or ():
            self.host.check_interrupts()
            emit(row)

    def _setting(self, name: str) -> str:
        for known, value in self.parameters.items():
            if known.lower() == name.lower():
                return value
        try:
            return self.show(name)
        except KeyError:
            raise ServerError(f'unrecognized configuration parameter "{name}"', sqlstate=UNDEFINED_OBJECT) from None
