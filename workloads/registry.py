"""The workloads there are, by the name that `--workload` takes; what `crashbed run` and the judge look up."""

from __future__ import annotations

from typing import Final

from workloads.append import Append
from workloads.bank import Bank
from workloads.workload import Workload

WORKLOADS: Final[dict[str, Workload]] = {"bank": Bank(), "append": Append()}

MODULES: Final[dict[str, str]] = {"bank": "workloads.bank", "append": "workloads.append"}
"""The module that a server preloads for each."""
