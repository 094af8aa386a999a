"""The plan of a command's campaign: how it is started and asked, what it promises, and what is done to it.

Owns the values, their limits, and every choice of every cycle, each a hash of the seed and of what is chosen. It
starts nothing. `chaos.command.plan_file` reads it from TOML; run.json holds it whole, so that a run can be judged and
replayed without the file.
"""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import msgspec

from chaos.errors import PlanError
from chaos.plan import derive
from chaos.victims import AnyChild, RoleChild, SeveralChildren, Victims

MAIN: Final = "main"
"""The role of the process that the command became. No pattern may name it."""
OTHER: Final = "other"
"""The role of a descendant that no pattern matches: nothing is promised of it, and it is never hit."""
DELAY_MS: Final = 200
"""A blow falls up to so long after the pause, so that it meets a supervisor's rounds at different places."""
LONGEST_S: Final = 3600.0


class Policy(StrEnum):
    """What a supervisor promises to do when one of its children dies."""

    RESTART_ONE = "restart-one"  # the dead child is replaced, the others stay (Erlang/OTP: one_for_one)
    RESTART_ALL = "restart-all"  # the others end too, then a new generation begins (OTP: one_for_all; a postmaster)
    DRAIN = "drain"  # nobody is replaced: the others end, and the main process with them


class CommandFault(StrEnum):
    """What can be done to a command's processes."""

    SIGKILL_RANDOM = "sigkill-random"  # any child with a role
    SIGKILL_ROLE = "sigkill-role"  # a child of a chosen role
    SIGKILL_SEVERAL = "sigkill-several"  # two to four children at once
    SIGSTOP = "sigstop"  # a child hangs: it neither answers nor ends
    SIGKILL_MAIN = "sigkill-main"  # the supervisor itself: no child may outlive it for long


SIGNALS: Final[dict[CommandFault, signal.Signals]] = {
    CommandFault.SIGKILL_RANDOM: signal.SIGKILL,
    CommandFault.SIGKILL_ROLE: signal.SIGKILL,
    CommandFault.SIGKILL_SEVERAL: signal.SIGKILL,
    CommandFault.SIGSTOP: signal.SIGSTOP,
    CommandFault.SIGKILL_MAIN: signal.SIGKILL,
}


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the server is asked whether it serves; one of `http`, `tcp`, `unix` and `command`.

    `http` is a URL that must answer with a status below 400, `tcp` an address as 127.0.0.1:8000, `unix` the path of a
    socket, `command` the words of a command that must exit with 0. Only this machine is asked. A server that does not
    answer within `deadline_s` seconds of its start has not started.
    """

    http: str | None = None
    tcp: str | None = None
    unix: str | None = None
    command: tuple[str, ...] | None = None
    deadline_s: float = 30.0

    def __post_init__(self) -> None:
        given = [name for name in ("http", "tcp", "unix", "command") if getattr(self, name)]
        if len(given) != 1:
            raise PlanError(f"ready needs one of http, tcp, unix and command, and has {' and '.join(given) or 'none'}")
        if self.http is not None:
            url = urlsplit(self.http)
            if url.scheme != "http":
                raise PlanError(f"ready.http is '{self.http}': write http://127.0.0.1:8000/")
            _require_loopback("ready.http", url.hostname or "")
        if self.tcp is not None:
            host, _, port = self.tcp.rpartition(":")
            if not port.isdigit() and port != "{port}":
                raise PlanError(f"ready.tcp is '{self.tcp}': write 127.0.0.1:8000")
            _require_loopback("ready.tcp", host.strip("[]"))
        _require_span("ready.deadline_s", self.deadline_s)


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor promises: its policy, and within how many seconds.

    `reaped_s`: from a child's end until its parent has reaped it. `replaced_s`: from a victim's end until the processes
    that replace it are forked (restart-one: its own; restart-all: the whole new generation). `ready_s`: from the blow
    until the server was seen to have recovered and answers. `drained_s`: from a victim's end until everybody has ended (drain). `hung_s`: from
    SIGSTOP until the supervisor has ended who hangs. `stopped_s`: from the stop signal until everybody has ended.
    `orphaned_s`: how long a child may outlive the main process.
    """

    policy: Policy
    reaped_s: float = 1.0
    replaced_s: float = 5.0
    ready_s: float = 10.0
    drained_s: float = 10.0
    hung_s: float = 60.0
    stopped_s: float = 10.0
    orphaned_s: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name != "policy":
                _require_span(f"expect.{name}", getattr(self, name))


class CommandCycle(msgspec.Struct, frozen=True):
    """One cycle: the fault, its victims (None: the main process), and how long after the pause it falls."""

    cycle: int
    epoch: int
    fault: CommandFault
    victims: Victims | None
    delay_ms: float


class CommandPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a campaign against a command follows from; raises PlanError when it makes no sense.

    In `start`, `environment` and `ready`, `{port}` stands for a free TCP port of loopback, `{python}` for this Python,
    and `{scratch}` for an empty directory, all three the run's own. `directory` is absolute. `roles` are regular
    expressions in their order: a descendant has the first that is found in its command line or its name. `victims`
    are the roles that faults choose from (empty: all that have a pattern). `pause_s` is how long the set of processes
    must be unchanged before a blow falls. `epoch_cycles` is how many cycles one start of the server is used for. `file` is where
    the plan was read from, if it was.
    """

    seed: int
    file: str = ""
    start: tuple[str, ...]
    directory: str
    ready: Ready
    expect: Expectation
    roles: dict[str, str]
    environment: dict[str, str] = {}
    stop_signal: str = "SIGTERM"
    faults: tuple[CommandFault, ...] = (CommandFault.SIGKILL_RANDOM,)
    victims: tuple[str, ...] = ()
    pause_s: float = 0.5
    epoch_cycles: int = 50

    def __post_init__(self) -> None:
        if not self.start:
            raise PlanError("start is empty: write the command's words, as in ['gunicorn', 'app:app']")
        if not self.roles:
            raise PlanError("roles is empty: a plan needs at least one role, as in worker = 'gunicorn'")
        for role, pattern in self.roles.items():
            if role in (MAIN, OTHER):
                raise PlanError(f"roles.{role}: '{role}' is a role of its own, choose another name")
            try:
                re.compile(pattern)
            except re.error as error:
                raise PlanError(f"roles.{role}: '{pattern}' is no regular expression: {error}") from None
        for role in self.victims:
            if role not in self.roles:
                raise PlanError(f"victims: there is no role '{role}'; there are {', '.join(self.roles)}")
        if not self.faults:
            raise PlanError(f"faults is empty; there are {', '.join(CommandFault)}")
        if self.stop_signal not in signal.Signals.__members__:
            raise PlanError(f"stop_signal: there is no signal '{self.stop_signal}'; write SIGTERM, SIGINT or SIGQUIT")
        if self.expect.policy is Policy.DRAIN and CommandFault.SIGKILL_SEVERAL in self.faults:
            raise PlanError("faults: sigkill-several says no more than sigkill-random of a server that drains")
        _require_span("pause_s", self.pause_s)
        if not 1 <= self.epoch_cycles <= 1 << 20:
            raise PlanError(f"epoch_cycles is {self.epoch_cycles}, outside the valid range (1 .. {1 << 20})")
        if not 0 <= self.seed < 1 << 63:
            raise PlanError(f"seed is {self.seed}, outside the valid range (0 .. {(1 << 63) - 1})")

    @property
    def targets(self) -> tuple[str, ...]:
        """The roles that faults choose from."""
        return self.victims or tuple(self.roles)

    def role_of(self, name: str, command_line: str) -> str:
        """The role of a descendant by its name (comm) and its command line, words separated by spaces."""
        for role, pattern in self.roles.items():
            if re.search(pattern, command_line) or re.search(pattern, name):
                return role
        return OTHER

    def filled(self, values: Mapping[str, str]) -> CommandPlan:
        """The plan with each `{name}` of `values` replaced in `start`, `environment` and `ready`."""

        def fill(text: str) -> str:
            for name, value in values.items():
                text = text.replace(f"{{{name}}}", value)
            return text

        asked = {
            name: value if value is None else fill(value) if isinstance(value, str) else tuple(map(fill, value))
            for name in ("http", "tcp", "unix", "command")
            for value in [getattr(self.ready, name)]
        }
        return msgspec.structs.replace(
            self,
            start=tuple(map(fill, self.start)),
            environment={name: fill(value) for name, value in self.environment.items()},
            ready=msgspec.structs.replace(self.ready, **asked),
        )

    def cycle(self, cycle: int) -> CommandCycle:
        """The plan of a cycle, from the seed and its number alone."""
        seed = self.seed
        fault = self.faults[derive(seed, "cycle", cycle, "fault") % len(self.faults)]
        return CommandCycle(
            cycle=cycle,
            epoch=cycle // self.epoch_cycles,
            fault=fault,
            victims=self._victims(cycle, fault),
            delay_ms=(derive(seed, "cycle", cycle, "delay") % (DELAY_MS * 1000)) / 1000,
        )

    def _victims(self, cycle: int, fault: CommandFault) -> Victims | None:
        draw = derive(self.seed, "cycle", cycle, "victim")
        match fault:
            case CommandFault.SIGKILL_MAIN:
                return None
            case CommandFault.SIGKILL_ROLE:
                return RoleChild(self.targets[derive(self.seed, "cycle", cycle, "role") % len(self.targets)], draw)
            case CommandFault.SIGKILL_SEVERAL:
                number = 2 + derive(self.seed, "cycle", cycle, "how many") % 3
                return SeveralChildren(
                    tuple(derive(self.seed, "cycle", cycle, "victim", which) for which in range(number))
                )
        return AnyChild(draw)


def _require_loopback(name: str, host: str) -> None:
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise PlanError(f"{name}: '{host}' is not this machine's loopback: write 127.0.0.1, [::1] or localhost")


def _require_span(name: str, seconds: float) -> None:
    if not 0 < seconds <= LONGEST_S:
        raise PlanError(f"{name} is {seconds:g}, outside the valid range (above 0, at most {LONGEST_S:g})")
