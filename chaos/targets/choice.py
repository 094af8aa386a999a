"""Which server a run is of: what the command line chose, run.json keeps, and the reproducing command repeats.

Owns the kinds of targets, what each can be broken with, and the check of options against them. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from chaos.errors import PlanError
from chaos.plan import CampaignPlan

OWNED_SETTINGS: Final = frozenset({
    "data_directory", "listen_addresses", "port", "unix_socket_directories", "log_line_prefix", "lc_messages",
    "log_destination", "logging_collector", "log_checkpoints", "log_connections", "restart_after_crash",
})  # fmt: skip
"""What is not for `--pg-set`."""


class TargetKind(StrEnum):
    """The targets there are, as `--target` names them."""

    BUILTIN = "builtin"
    POSTGRES = "postgres"
    COMMAND = "command"

    @property
    def words(self) -> str:
        """What it is, for people."""
        return {self.BUILTIN: "built-in server", self.POSTGRES: "PostgreSQL", self.COMMAND: "command"}[self]


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
        if plan.points or plan.point_one_in:
            raise PlanError(
                "--point: points are places in the built-in server's code, and PostgreSQL has none of them; "
                "choose whom with --fault sigkill-role"
            )
        if defect is not None:
            raise PlanError("--defect is planted into a copy of the built-in server's code: leave out one of the two")
        taken = sorted(OWNED_SETTINGS & {name.lower() for name in self.settings})
        if taken:
            raise PlanError(f"--pg-set {taken[0]}: the harness sets it itself, to reach the server and to read its log")

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
