"""The grammar of point selectors: role[#nth]/point:k.

Owns how a person names a place in the server where something is to happen, and how that becomes an arm of the points
map. It knows neither plans nor faults.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from chaos.errors import PlanError
from supervisor.points import Arm, Point, PointAction
from supervisor.roles import Role

_SELECTOR = re.compile(r"(?P<role>[a-z_]+)(?:#(?P<nth>[0-9]+))?/(?P<point>[A-Za-z_]+):(?P<k>[0-9]+)")
ROLES: Final = {role.short_name: role for role in Role}


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

    def arm(self, action: PointAction, argument: int = 0) -> Arm:
        """The arm for the points map."""
        return Arm(role=self.role, nth=self.nth, point=self.point, k=self.k, action=action, argument=argument)


def parse_selector(text: str) -> Selector:
    """Read `role[#nth]/point:k`; the point's name in either case. Raises PlanError saying what is wrong."""
    match = _SELECTOR.fullmatch(text)
    if match is None:
        raise PlanError(f"'{text}' is not a selector: write role[#nth]/point:k, as in backend#2/COMMIT_AFTER_FLUSH:30")
    role = ROLES.get(match["role"])
    if role is None:
        raise PlanError(f"'{text}': there is no role '{match['role']}'; there are {', '.join(ROLES)}")
    point = Point.__members__.get(match["point"].upper())
    if point is None:
        raise PlanError(f"'{text}': there is no point '{match['point']}'; `crashbed points` lists them")
    k, nth = int(match["k"]), int(match["nth"] or 0)
    if k < 1 or (match["nth"] is not None and nth < 1):
        raise PlanError(f"'{text}': passes and processes are counted from 1")
    return Selector(role=role, point=point, k=k, nth=nth)
