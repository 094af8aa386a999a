"""What a campaign does, derived from one seed.

Owns the plans (which fault, whom, when, how much work) and the grammar of point selectors. Every choice is
the hash of the campaign's seed and of what is chosen, never a draw from a shared stream: cycle k's plan needs
no other cycle's, and a choice added later leaves the others as they were. The same seed and options give the
same plan, byte for byte. It never looks at a running server: a plan says "the live child number draw mod n",
and who that is the campaign finds out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from supervisor.points import Arm, Point, PointAction
from supervisor.roles import Role

T = TypeVar("T")

OPERATIONS_PER_CYCLE: Final = 2000
POINT_ONE_IN: Final = 4
"""One cycle in four is placed at a point, unless the plan says otherwise."""
OUTSIDE_ONE_IN: Final = 20
"""One operation in 20 is sent by an outside client."""


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


class PlanError(ValueError):
    """An option or selector that makes no plan: the message says which and what would."""


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


# The grammar of selectors: role[#nth]/point:k

_SELECTOR = re.compile(r"(?P<role>[a-z_]+)(?:#(?P<nth>[0-9]+))?/(?P<point>[A-Za-z_]+):(?P<k>[0-9]+)")
_ROLES: Final = {role.short_name: role for role in Role}


class Selector(msgspec.Struct, frozen=True):
    """The k-th pass (from 1, since its fork) of a process through a point.

    `nth` is the process's place in fork order among its role in its generation, from 1; 0 is any of them.
    """

    role: Role
    point: Point
    k: int
    nth: int = 0

    def __str__(self) -> str:
        nth = f"#{self.nth}" if self.nth else ""
        return f"{self.role.short_name}{nth}/{self.point.name}:{self.k}"

    def arm(self, action: PointAction) -> Arm:
        """The arm for the points map."""
        return Arm(role=self.role, nth=self.nth, point=self.point, k=self.k, action=action)


def parse_selector(text: str) -> Selector:
    """Read `role[#nth]/point:k`; the point's name in either case. Raises PlanError saying what is wrong."""
    match = _SELECTOR.fullmatch(text)
    if match is None:
        raise PlanError(f"'{text}' is not a selector: write role[#nth]/point:k, as in backend#2/COMMIT_AFTER_FLUSH:30")
    role = _ROLES.get(match["role"])
    if role is None:
        raise PlanError(f"'{text}': there is no role '{match['role']}'; there are {', '.join(_ROLES)}")
    point = Point.__members__.get(match["point"].upper())
    if point is None:
        raise PlanError(f"'{text}': there is no point '{match['point']}'; `crashbed points` lists them")
    k, nth = int(match["k"]), int(match["nth"] or 0)
    if k < 1 or (match["nth"] is not None and nth < 1):
        raise PlanError(f"'{text}': passes and processes are counted from 1")
    return Selector(role=role, point=point, k=k, nth=nth)


# Plans.


class FaultKind(StrEnum):
    """The faults there are, as `--fault` names them."""

    SIGKILL_RANDOM = "sigkill-random"  # any live child
    SIGKILL_ROLE = "sigkill-role"  # a child of a chosen role
    SIGKILL_SEVERAL = "sigkill-several"  # two to four children at once
    SIGQUIT = "sigquit"  # any live child, told to quit by hand


class AnyChild(msgspec.Struct, frozen=True, tag="any"):
    """Of the live children in fork order, the one at `draw` modulo their number."""

    draw: int


class RoleChild(msgspec.Struct, frozen=True, tag="role"):
    """Of the live children of a role (its short name) in fork order, the one at `draw` modulo their number."""

    role: str
    draw: int


class SeveralChildren(msgspec.Struct, frozen=True, tag="several"):
    """One child for each draw, taken in turn from those that are left."""

    draws: tuple[int, ...]


Victims = AnyChild | RoleChild | SeveralChildren


class TimePlacement(msgspec.Struct, frozen=True, tag="time"):
    """So many milliseconds after the generation's first commit and the cycle's 20th acknowledgement."""

    delay_ms: float


class PointPlacement(msgspec.Struct, frozen=True, tag="point"):
    """At a point: the process that gets there does it to itself.

    It is armed before the process is forked: before the workers, or before the plan's trigger. `action` is the
    name of a PointAction.
    """

    selector: str
    action: str = PointAction.SIGKILL.name

    def arm(self) -> Arm:
        """The arm for the points map. Raises PlanError."""
        if self.action not in PointAction.__members__:
            raise PlanError(f"there is no action '{self.action}'; there are {', '.join(PointAction.__members__)}")
        return parse_selector(self.selector).arm(PointAction[self.action])


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

    `victims` is of a time placement; at a point, whoever gets there is the victim and `victims` is None.
    `trigger` is of a point that no worker passes: it makes the process be forked that does.
    Worker i sends the operations `operation_id(cycle, i, 0)` onwards, at most `transactions`, drawn from
    `worker_seeds[i]`. The outside client is worker number `len(worker_seeds)` with `outside_operations`
    and `outside_seed`.
    """

    cycle: int
    epoch: int
    fault: FaultKind
    placement: Placement
    victims: Victims | None
    workload: str
    worker_seeds: tuple[int, ...]
    transactions: int
    outside_operations: int
    outside_seed: int
    trigger: Trigger | None = None


class CampaignPlan(msgspec.Struct, frozen=True):
    """The options that plans follow from; together with nothing else.

    `points` are selectors for the cycles placed at points, one cycle in `point_one_in` (0 is never); left
    empty, they are drawn from `BACKEND_POINTS`. `delay_ms` is the range of time placements. Without
    `synchronous_commit` a commit does not wait for its flush, and the last ones may be lost. Raises PlanError.
    """

    seed: int
    workloads: tuple[str, ...] = ("bank",)
    backends: int = 8
    faults: tuple[FaultKind, ...] = tuple(FaultKind)
    roles: tuple[str, ...] = ("backend", "checkpointer", "bgwriter", "walwriter", "bgworker")
    points: tuple[str, ...] = ()
    point_one_in: int = POINT_ONE_IN
    delay_ms: tuple[float, float] = DELAY_MS
    epoch_cycles: int = EPOCH_CYCLES
    operations: int = OPERATIONS_PER_CYCLE
    synchronous_commit: bool = True

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("seed", self.seed, 0, (1 << 63) - 1),
            ("backends", self.backends, 1, 1000),
            ("operations", self.operations, 2 * self.backends, OPERATIONS_PER_CYCLE),
            ("epoch_cycles", self.epoch_cycles, 1, 1 << 20),
            ("point_one_in", self.point_one_in, 0, 1 << 20),
        ):
            if not least <= value <= most:
                raise PlanError(f"{name} is {value}, outside the valid range ({least} .. {most})")
        for name, values in (("workload", self.workloads), ("fault", self.faults), ("role", self.roles)):
            if not values:
                raise PlanError(f"a plan needs at least one {name}")
        for role in self.roles:
            if role not in _ROLES or _ROLES[role] is Role.POSTMASTER:
                raise PlanError(f"there is no child of role '{role}'; there are {', '.join(list(_ROLES)[:-1])}")
        for selector in self.points:
            at = parse_selector(selector).role
            if at is not Role.BACKEND and at not in TRIGGERS:
                placeable = ", ".join(known.short_name for known in (Role.BACKEND, *TRIGGERS))
                raise PlanError(f"'{selector}': a campaign places faults at points of {placeable}")
        if self.points and set(self.faults) == {FaultKind.SIGQUIT}:
            raise PlanError("what happens at a point is a SIGKILL: a plan of sigquit alone has no use for --point")
        if not 0 <= self.delay_ms[0] <= self.delay_ms[1]:
            raise PlanError(f"delays from {self.delay_ms[0]} to {self.delay_ms[1]} ms are no range")

    def cycle(self, cycle: int) -> CyclePlan:
        """The plan of a cycle, from the seed and its number alone."""
        seed = self.seed
        at_point = self._is_at_point(cycle)
        workload = _choose(self.workloads, seed, cycle, "workload")
        placement = self._point(cycle, workload) if at_point else self._time(cycle)
        fault = _choose(self.faults, seed, cycle, "fault")
        outside = self.operations // OUTSIDE_ONE_IN
        return CyclePlan(
            cycle=cycle,
            epoch=cycle // self.epoch_cycles,
            fault=FaultKind.SIGKILL_ROLE if at_point else fault,
            placement=placement,
            victims=None if at_point else self._victims(cycle, fault),
            workload=workload,
            worker_seeds=tuple(derive(seed, "cycle", cycle, "worker", worker) for worker in range(self.backends)),
            transactions=(self.operations - outside) // self.backends,
            outside_operations=outside,
            outside_seed=derive(seed, "cycle", cycle, "outside"),
            trigger=self._trigger(cycle, placement) if isinstance(placement, PointPlacement) else None,
        )

    def _is_at_point(self, cycle: int) -> bool:
        # What happens at a point is a SIGKILL, so a plan of SIGQUIT alone has none.
        kills = any(fault is not FaultKind.SIGQUIT for fault in self.faults)
        every = self.point_one_in
        return kills and every > 0 and derive(self.seed, "cycle", cycle, "at point") % every == 0

    def _time(self, cycle: int) -> TimePlacement:
        least, most = (round(delay * 1000) for delay in self.delay_ms)
        return TimePlacement((least + derive(self.seed, "cycle", cycle, "delay") % (most - least + 1)) / 1000)

    def _point(self, cycle: int, workload: str) -> PointPlacement:
        if self.points:
            return PointPlacement(_choose(self.points, self.seed, cycle, "selector"))
        rarely = RARELY_PASSED.get(workload, frozenset())
        if not self.synchronous_commit:
            rarely |= OF_SYNCHRONOUS_COMMIT
        passed = tuple((point, passes) for point, passes in BACKEND_POINTS.items() if point not in rarely)
        point, passes = _choose(passed, self.seed, cycle, "point")
        # From the 25th transaction on, that of a backend alone makes 20 acknowledgements likely before.
        k = passes * 25 + derive(self.seed, "cycle", cycle, "pass") % (passes * 25)
        return PointPlacement(str(Selector(role=Role.BACKEND, point=point, k=k)))

    def _trigger(self, cycle: int, placement: PointPlacement) -> Trigger | None:
        role = placement.arm().role
        kind = TRIGGERS.get(role)
        if kind is None:
            return None
        draw = derive(self.seed, "cycle", cycle, "victim")
        victim = RoleChild(Role.BACKEND.short_name if kind is TriggerKind.CRASH else role.short_name, draw)
        return Trigger(kind, self._time(cycle).delay_ms, victim)

    def _victims(self, cycle: int, fault: FaultKind) -> Victims:
        draw = derive(self.seed, "cycle", cycle, "victim")
        if fault is FaultKind.SIGKILL_ROLE:
            return RoleChild(_choose(self.roles, self.seed, cycle, "role"), draw)
        if fault is FaultKind.SIGKILL_SEVERAL:
            number = 2 + derive(self.seed, "cycle", cycle, "how many") % 3
            return SeveralChildren(tuple(derive(self.seed, "cycle", cycle, "victim", which) for which in range(number)))
        return AnyChild(draw)


BACKEND_POINTS: Final[dict[Point, int]] = {
    Point.COMMIT_BEFORE_RECORD: 1,
    Point.COMMIT_AFTER_RECORD: 1,
    Point.COMMIT_AFTER_FLUSH: 1,
    Point.COMMIT_BEFORE_VISIBLE: 1,
    Point.COMMIT_AFTER_VISIBLE: 1,
    Point.WAL_INSERT_BEFORE_LOCK: 4,
    Point.WAL_INSERT_UNDER_LOCK: 4,
    Point.WAL_INSERT_AFTER_COPY: 4,
    Point.WAL_FLUSH_BEFORE_WRITE: 1,
    Point.WAL_FLUSH_BEFORE_FSYNC: 1,
    Point.HEAP_INSERT_UNDER_LOCK: 1,
    Point.HEAP_UPDATE_UNDER_LOCK: 2,
    Point.BTREE_INSERT_UNDER_LOCK: 1,
}
"""The points that plans draw from, with how often a transaction of the bank passes each.

Only points that every writing backend keeps passing: a cycle whose point is never reached proves nothing.
"""

RARELY_PASSED: Final[dict[str, frozenset[Point]]] = {
    "append": frozenset({Point.HEAP_INSERT_UNDER_LOCK, Point.BTREE_INSERT_UNDER_LOCK}),
}
"""By workload, those of them that are not drawn: appends change rows, and add one when a list is full."""

OF_SYNCHRONOUS_COMMIT: Final = frozenset(
    {Point.COMMIT_AFTER_FLUSH, Point.WAL_FLUSH_BEFORE_WRITE, Point.WAL_FLUSH_BEFORE_FSYNC}
)
"""Those of them that a backend passes because it waits for its commit's flush."""


def pick(victims: Victims, live: Sequence[tuple[int, str]]) -> tuple[int, ...]:
    """The pids that a plan means, of the live children (pid, role's short name) in fork order.

    Fewer than meant when there are fewer; none when there is no child of the role.
    """
    match victims:
        case AnyChild(draw):
            return _one([pid for pid, _ in live], draw)
        case RoleChild(role, draw):
            return _one([pid for pid, of in live if of == role], draw)
        case SeveralChildren(draws):
            left = [pid for pid, _ in live]
            return tuple(left.pop(draw % len(left)) for draw in draws if left)


def encode(plan: CyclePlan | CampaignPlan) -> bytes:
    """A plan as JSON; `decode_cycle` and `decode_campaign` read it back."""
    return msgspec.json.encode(plan, order="deterministic")


def decode_cycle(data: bytes) -> CyclePlan:
    """Raises msgspec.ValidationError when it is none."""
    return msgspec.json.decode(data, type=CyclePlan)


def decode_campaign(data: bytes) -> CampaignPlan:
    """Raises msgspec.ValidationError when it is none, also for options out of range."""
    return msgspec.json.decode(data, type=CampaignPlan)


def _one(pids: list[int], draw: int) -> tuple[int, ...]:
    return (pids[draw % len(pids)],) if pids else ()


def _choose(choices: tuple[T, ...], seed: int, cycle: int, what: str) -> T:
    return choices[derive(seed, "cycle", cycle, what) % len(choices)]
