"""The plans that are shipped, each a file of this folder and known by its name.

Owns which there are, and which file is meant by what a person wrote: a file that exists goes before a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from chaos.errors import PlanError

SHIPPED: Final[Mapping[str, Path]] = MappingProxyType(
    {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
)
"""By name."""


def find_plan(written: str) -> Path:
    """The plan file that is meant by a path or a shipped plan's name. Raises PlanError when there is none."""
    path = Path(written)
    if path.exists():
        return path
    if written in SHIPPED:
        return SHIPPED[written]
    raise PlanError(f"there is no file {written}, and no shipped plan of that name; there are {', '.join(SHIPPED)}")
