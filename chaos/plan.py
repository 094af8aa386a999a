"""What a campaign does, derived from one seed.

Owns the plans: which fault, whom, when, how much work. Every choice is
the hash of the campaign's seed and of what is chosen, never a draw from a shared stream: cycle k's plan needs
no other cycle's, and a choice added later leaves the others as they were. The same seed and options give the
same plan, byte for byte. It never looks at a running server: a plan says "the live child number draw mod n",
and who that is the campaign finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from itertools import accumulate
from typing import Final, TypeVar

import msgspec

from chaos.errors import PlanError
from chaos.faults.fault import Aim, BeginCheckpoint, Fault, Pause, Places, Whom
from chaos.faults.registry import DEFAULT, FAULTS
from chaos.places import (
    BACKEND_POINTS,
    CHECKPOINT_POINTS,
    OF_SYNCHRONOUS_COMMIT,
    RARELY_PASSED,
    RECOVERY_POINTS,
)
from chaos.selector import ROLES, Selector, parse_selector
from chaos.victims import AnyChild, EveryChild, RoleChild, SeveralChildren, Victims
from supervisor.points import Arm, PointAction
from supervisor.roles import Role

T = TypeVar("T")

OPERATIONS_PER_CYCLE: Final = 2000
POINT_ONE_IN: Final = 4
"""One cycle in four is placed at a point, unless the plan says otherwise."""
OUTSIDE_ONE_IN: Final = 20
"""One operation in 20 is sent by an outside client."""


MOST_SEED: Final = (1 << 63) - 1
"""It fits a bigint."""
MOST_BACKENDS: Final = 1000

EPOCH_CYCLES: Final = 50
"""Cycles on one cluster, unless a run says otherwise."""

DELAY_MS: Final = (0.0, 40.0)
ASYNCHRONOUS_DELAY_MS: Final = (180.0, 340.0)
"""The delays of a campaign with asynchronous commit: something that a cycle commits is older than the loss window, and
on a quick machine its 2,000 operations are not all done before the kill."""

WAL_WRITER_DELAY_MS: Final = 20
"""What such a campaign runs the server with: the loss window must be short against a cycle, or nothing is judged."""

_LOSS_SLACK_MS: Final = 100
"""For a machine on which the WAL writer waits for a processor, or for its fdatasync."""


def loss_window_ns(*, synchronous_commit: bool) -> int:
    """How long before a kill an acknowledgement is no promise yet: PostgreSQL's three rounds of the WAL writer."""
    return 0 if synchronous_commit else (3 * WAL_WRITER_DELAY_MS + _LOSS_SLACK_MS) * 1_000_000


def derive(seed: int, *what: object) -> int:
    """A number of 63 bits (it fits a bigint) from the seed and a path of what it is for.

    Each part is hashed with its length, so that no two paths run into each other.
    """
    digest = blake2b(digest_size=8, person=b"crashbed.plan")
    for part in (seed, *what):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "little"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "little") >> 1


class TimePlacement(msgspec.Struct, frozen=True, tag="time"):
    """So many milliseconds after the generation's first commit and the cycle's 20th acknowledgement."""

    delay_ms: float


class PointPlacement(msgspec.Struct, frozen=True, tag="point", omit_defaults=True):
    """At a point: the process that gets there does it to itself.

    It is armed before the process is forked: before the workers, or before the plan's trigger. `action` is the
    name of a PointAction and `argument` the status of an EXIT. It happens `times` times, to one process each.
    """

    selector: str
    action: str = PointAction.SIGKILL.name
    argument: int = 0
    times: int = 1

    def arm(self) -> Arm:
        """The arm for the points map. Raises PlanError."""
        if self.action not in PointAction.__members__:
            raise PlanError(f"there is no action '{self.action}'; there are {', '.join(PointAction.__members__)}")
        return parse_selector(self.selector).arm(PointAction[self.action], self.argument)


Placement = TimePlacement | PointPlacement


class TriggerKind(StrEnum):
    """How a process that lives longer than a cycle is made to be forked anew, so that it reads an arm."""

    CRASH = "crash"  # SIGKILL of a backend: recovery forks everybody anew, and the point is one of recovery
    LEAVE = "leave"  # SIGTERM: it exits with 0, and the postmaster forks another at once (specification 2.3)


class Trigger(msgspec.Struct, frozen=True):
    """What is done so many milliseconds after the cycle's 20th acknowledgement, the point having been armed."""

    kind: TriggerKind
    delay_ms: float
    victim: RoleChild


TRIGGERS: Final[dict[Role, TriggerKind]] = {
    Role.STARTUP: TriggerKind.CRASH,
    Role.CHECKPOINTER: TriggerKind.CRASH,
    Role.BGWRITER: TriggerKind.LEAVE,
    Role.WALWRITER: TriggerKind.LEAVE,
}
"""Which trigger a point of each role needs. A backend needs none: the cycle's own are forked under the arm."""


class CyclePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One cycle: what is run and what is done to it.

    `victims` is of a time placement; at a point, whoever gets there is the victim and `victims` is None. `bystander`,
    `pause_ms` and `checkpoint_point` are of faults whose steps ask for them. `trigger` is of a point that no worker
    passes: it makes the process be forked that does.
    Worker i sends the operations `operation_id(cycle, i, 0)` onwards, at most `transactions`, drawn from
    `worker_seeds[i]`. The outside client is worker number `len(worker_seeds)` with `outside_operations`
    and `outside_seed`.
    """

    cycle: int
    epoch: int
    fault: str
    placement: Placement
    victims: Victims | None
    workload: str
    worker_seeds: tuple[int, ...]
    transactions: int
    outside_operations: int
    outside_seed: int
    trigger: Trigger | None = None
    bystander: AnyChild | None = None
    pause_ms: float = 0.0
    checkpoint_point: str = ""


class CampaignPlan(msgspec.Struct, frozen=True):
    """The options that plans follow from; together with nothing else.

    `faults` are names of `chaos.faults`, drawn by their weights. `points` are selectors for the cycles placed at
    points, one cycle in `point_one_in` (0 is never); left empty, they are drawn from `BACKEND_POINTS`. `delay_ms` is
    the range of time placements. Without `synchronous_commit` a commit does not wait for its flush, and the last ones
    may be lost. Raises PlanError.
    """

    seed: int
    workloads: tuple[str, ...] = ("bank",)
    backends: int = 8
    faults: tuple[str, ...] = DEFAULT
    roles: tuple[str, ...] = ("backend", "checkpointer", "bgwriter", "walwriter", "bgworker")
    points: tuple[str, ...] = ()
    point_one_in: int = POINT_ONE_IN
    delay_ms: tuple[float, float] = DELAY_MS
    epoch_cycles: int = EPOCH_CYCLES
    operations: int = OPERATIONS_PER_CYCLE
    synchronous_commit: bool = True

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("seed", self.seed, 0, MOST_SEED),
            ("backends", self.backends, 1, MOST_BACKENDS),
            ("operations", self.operations, 2 * self.backends, OPERATIONS_PER_CYCLE),
            ("epoch_cycles", self.epoch_cycles, 1, 1 << 20),
            ("point_one_in", self.point_one_in, 0, 1 << 20),
        ):
            if not least <= value <= most:
                raise PlanError(f"{name} is {value}, outside the valid range ({least} .. {most})")
        for name, values in (("workload", self.workloads), ("fault", self.faults), ("role", self.roles)):
            if not values:
                raise PlanError(f"a plan needs at least one {name}")
        for fault in self.faults:
            if fault not in FAULTS:
                raise PlanError(f"there is no fault '{fault}'; there are {', '.join(FAULTS)}")
        for role in self.roles:
            if role not in ROLES or ROLES[role] is Role.POSTMASTER:
                raise PlanError(f"there is no child of role '{role}'; there are {', '.join(list(ROLES)[:-1])}")
        self._check_points()
        if not 0 <= self.delay_ms[0] <= self.delay_ms[1]:
            raise PlanError(f"delays from {self.delay_ms[0]} to {self.delay_ms[1]} ms are no range")

    def _check_points(self) -> None:
        exits = [fault.name for fault in self._placeable if fault.at and fault.at.action is PointAction.EXIT]
        for selector in self.points:
            at = parse_selector(selector).role
            if at is not Role.BACKEND and at not in TRIGGERS:
                placeable = ", ".join(known.short_name for known in (Role.BACKEND, *TRIGGERS))
                raise PlanError(f"'{selector}': a campaign places faults at points of {placeable}")
            if at is not Role.BACKEND and exits:
                raise PlanError(f"'{selector}': {exits[0]} is of backends, choose a point of theirs")
        if self.points and not self._placeable:
            able = ", ".join(
                fault.name for fault in FAULTS.values() if fault.at and fault.at.only is not Places.RECOVERY
            )
            raise PlanError(
                f"a plan of {', '.join(self.faults)} alone has no use for --point; these strike at one: {able}"
            )

    def cycle(self, cycle: int) -> CyclePlan:
        """The plan of a cycle, from the seed and its number alone."""
        seed = self.seed
        at_point = self._is_at_point(cycle)
        workload = _choose(self.workloads, seed, cycle, "workload")
        fault = _draw(self._placeable if at_point else tuple(FAULTS[name] for name in self.faults), seed, cycle)
        if at_point and fault.at is not None and fault.at.action is PointAction.SIGKILL:
            fault = FAULTS["sigkill-role"]  # whoever gets there: the point has a role
        in_time = not at_point and bool(fault.steps)
        placement = self._time(cycle) if in_time else self._point(cycle, workload, fault)
        outside = self.operations // OUTSIDE_ONE_IN
        return CyclePlan(
            cycle=cycle,
            epoch=cycle // self.epoch_cycles,
            fault=fault.name,
            placement=placement,
            victims=self._victims(cycle, fault) if in_time else None,
            workload=workload,
            worker_seeds=tuple(derive(seed, "cycle", cycle, "worker", worker) for worker in range(self.backends)),
            transactions=(self.operations - outside) // self.backends,
            outside_operations=outside,
            outside_seed=derive(seed, "cycle", cycle, "outside"),
            trigger=self._trigger(cycle, placement) if isinstance(placement, PointPlacement) else None,
            bystander=self._bystander(cycle, fault) if in_time else None,
            pause_ms=self._pause(cycle, fault) if in_time else 0.0,
            checkpoint_point=self._checkpoint_point(cycle, fault) if in_time else "",
        )

    @property
    def _placeable(self) -> tuple[Fault, ...]:
        """The faults that strike at whatever point they are given; those of a recovery have points of their own."""
        faults = (FAULTS[name] for name in self.faults)
        return tuple(fault for fault in faults if fault.at is not None and fault.at.only is not Places.RECOVERY)

    def _is_at_point(self, cycle: int) -> bool:
        every = self.point_one_in
        return bool(self._placeable) and every > 0 and derive(self.seed, "cycle", cycle, "at point") % every == 0

    def _time(self, cycle: int) -> TimePlacement:
        return TimePlacement(_between(self.delay_ms, self.seed, cycle, "delay"))

    def _point(self, cycle: int, workload: str, fault: Fault) -> PointPlacement:
        assert fault.at is not None, "a fault that has no steps strikes at points"
        if fault.at.only is Places.RECOVERY:
            role, point, most = _choose(RECOVERY_POINTS, self.seed, cycle, "point")
            selector = str(Selector(role=role, point=point, k=1 + derive(self.seed, "cycle", cycle, "pass") % most))
        elif self.points:
            selector = _choose(self.points, self.seed, cycle, "selector")
        else:
            selector = self._workers_point(cycle, workload)
        return PointPlacement(selector, fault.at.action.name, fault.at.argument, fault.at.times)

    def _workers_point(self, cycle: int, workload: str) -> str:
        rarely = RARELY_PASSED.get(workload, frozenset())
        if not self.synchronous_commit:
            rarely |= OF_SYNCHRONOUS_COMMIT
        passed = tuple((point, passes) for point, passes in BACKEND_POINTS.items() if point not in rarely)
        point, passes = _choose(passed, self.seed, cycle, "point")
        # From the 25th transaction on, that of a backend alone makes 20 acknowledgements likely before.
        k = passes * 25 + derive(self.seed, "cycle", cycle, "pass") % (passes * 25)
        return str(Selector(role=Role.BACKEND, point=point, k=k))

    def _trigger(self, cycle: int, placement: PointPlacement) -> Trigger | None:
        role = placement.arm().role
        kind = TRIGGERS.get(role)
        if kind is None:
            return None
        draw = derive(self.seed, "cycle", cycle, "victim")
        victim = RoleChild(Role.BACKEND.short_name if kind is TriggerKind.CRASH else role.short_name, draw)
        return Trigger(kind, self._time(cycle).delay_ms, victim)

    def _victims(self, cycle: int, fault: Fault) -> Victims | None:
        draw = derive(self.seed, "cycle", cycle, "victim")
        match fault.aim:
            case Aim.ANY:
                return AnyChild(draw)
            case Aim.ROLE:
                return RoleChild(_choose(self.roles, self.seed, cycle, "role"), draw)
            case Aim.SEVERAL:
                number = 2 + derive(self.seed, "cycle", cycle, "how many") % 3
                return SeveralChildren(tuple(derive(self.seed, "cycle", cycle, "victim", n) for n in range(number)))
            case Aim.BACKEND:
                return RoleChild(Role.BACKEND.short_name, draw)
            case Aim.EVERY_BACKEND:
                return EveryChild(Role.BACKEND.short_name)
            case Aim.CHECKPOINTER:
                return RoleChild(Role.CHECKPOINTER.short_name, draw)
            case Aim.AUXILIARY:
                return RoleChild(_choose(_AUXILIARIES, self.seed, cycle, "role"), draw)
            case Aim.NOBODY:
                return None

    def _bystander(self, cycle: int, fault: Fault) -> AnyChild | None:
        return AnyChild(derive(self.seed, "cycle", cycle, "bystander")) if fault.sends(to=Whom.BYSTANDER) else None

    def _pause(self, cycle: int, fault: Fault) -> float:
        if Pause() not in fault.steps:
            return 0.0
        # A postmaster that drains is quick, and a stopped process is in nobody's way for long.
        return _between(DRAIN_MS if fault.sends(to=Whom.POSTMASTER) else STOPPED_MS, self.seed, cycle, "pause")

    def _checkpoint_point(self, cycle: int, fault: Fault) -> str:
        asks = BeginCheckpoint() in fault.steps
        return _choose(CHECKPOINT_POINTS, self.seed, cycle, "checkpoint").name if asks else ""


_AUXILIARIES: Final = (Role.BGWRITER.short_name, Role.WALWRITER.short_name)

STOPPED_MS: Final = (1.0, 20.0)
"""How long a victim is stopped before it is killed."""
DRAIN_MS: Final = (0.0, 2.0)
"""How long after a request to shut down a child is killed."""


def encode(plan: CyclePlan | CampaignPlan) -> bytes:
    """A plan as JSON; `decode_cycle` and `decode_campaign` read it back."""
    return msgspec.json.encode(plan, order="deterministic")


def decode_cycle(data: bytes) -> CyclePlan:
    """Raises msgspec.ValidationError when it is none."""
    return msgspec.json.decode(data, type=CyclePlan)


def decode_campaign(data: bytes) -> CampaignPlan:
    """Raises msgspec.ValidationError when it is none, also for options out of range."""
    return msgspec.json.decode(data, type=CampaignPlan)


def _choose(choices: tuple[T, ...], seed: int, cycle: int, what: str) -> T:
    return choices[derive(seed, "cycle", cycle, what) % len(choices)]


def _between(span_ms: tuple[float, float], seed: int, cycle: int, what: str) -> float:
    """A time of a span, in ms with microseconds."""
    least, most = (round(bound * 1000) for bound in span_ms)
    return (least + derive(seed, "cycle", cycle, what) % (most - least + 1)) / 1000


def _draw(faults: Sequence[Fault], seed: int, cycle: int) -> Fault:
    """One of them, by their weights."""
    draw = derive(seed, "cycle", cycle, "fault") % sum(fault.weight for fault in faults)
    return next(fault for fault, upto in zip(faults, accumulate(fault.weight for fault in faults), strict=True)
                if draw < upto)  # fmt: skip
