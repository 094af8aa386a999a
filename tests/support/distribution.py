"""A distribution as pip leaves it: modules and a `dist-info` with entry points, in a directory that goes on the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from workloads.registry import GROUP


def install(site: Path, name: str, offers: Mapping[str, str], modules: Mapping[str, str]) -> None:
    """Put a distribution of this name into `site`: workloads by entry point, and modules by name with their source."""
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)
    information = site / f"{name.replace('-', '_')}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[{GROUP}]\n" + "".join(f"{workload} = {value}\n" for workload, value in offers.items())
    )
