"""Which server a run is of: what the command line chose, run.json keeps, and the reproducing command repeats.

Owns the kinds of targets, what each can be broken with, and the check of options against them. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from chaos.plan import CampaignPlan, PlanError


class TargetKind(StrEnum):
    """The targets there are, as `--target` names them."""

    BUILTIN = "builtin"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """One target. `pg_bindir` and `settings` are PostgreSQL's: where its programs are, and what it is started with."""

    kind: TargetKind = TargetKind.BUILTIN
    pg_bindir: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def check(self, plan: CampaignPlan, defect: str | None) -> None:
        """Raises PlanError when the plan asks for what the target has not."""
        if self.kind is TargetKind.BUILTIN:
            if self.pg_bindir is not None or self.settings:
                raise PlanError("--pg-bindir and --pg-set are of --target postgres")
            return
        if plan.points:
            raise PlanError(
                f"--point: points are places in the built-in server's code, and a {self.kind} has none of them"
            )
        if plan.point_one_in:
            raise PlanError(f"a plan for a {self.kind} places no fault at a point: give --no-points")
        if defect is not None:
            raise PlanError("--defect is planted into a copy of the built-in server: there is none of a postgres")

    def recorded(self) -> dict[str, Any]:
        """What run.json holds of it."""
        return {"kind": str(self.kind), "pg_bindir": self.pg_bindir, "settings": dict(self.settings)}

    @classmethod
    def read(cls, recorded: Mapping[str, Any] | None) -> TargetChoice:
        """From what run.json holds; a run of before there was a choice was of the built-in server. Raises ValueError."""
        if not recorded:
            return cls()
        return cls(TargetKind(recorded["kind"]), recorded.get("pg_bindir"), dict(recorded.get("settings") or {}))

    def words(self) -> list[str]:
        """The options that choose it."""
        if self.kind is TargetKind.BUILTIN:
            return []
        words = ["--target", str(self.kind)]
        if self.pg_bindir is not None:
            words += ["--pg-bindir", self.pg_bindir]
        for name, value in self.settings.items():
            words += ["--pg-set", f"{name}={value}"]
        return words


BUILTIN: Final = TargetChoice()
"""What a run is of that chose nothing."""
