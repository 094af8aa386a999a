"""The workloads there are, by the name that `--workload` takes; what `crashbed run` and the judge look up."""

from __future__ import annotations

from typing import Final

from workloads.append import Append
from workloads.bank import Bank
from workloads.tpcb import Tpcb
from workloads.workload import Workload

WORKLOADS: Final[dict[str, Workload]] = {"bank": Bank(), "append": Append(), "tpcb": Tpcb()}

MODULES: Final[dict[str, str]] = {"bank": "workloads.bank", "append": "workloads.append", "tpcb": "workloads.tpcb"}
"""The module that a server preloads for each."""
