"""What grows from cycle to cycle, and the oracle of leaks.

What could go wrong: a descriptor left open by each crash that nobody notices; a new postmaster's fresh start taken for
a fall, or its predecessor's samples for its own; one odd sample, or a heap that fills its last page, called a leak; a
short life called judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import theilslopes

from chaos.oracles import leak
from chaos.trends import LEAST_CYCLES, LEAST_OF_A_LIFE, QUANTITIES, pooled_slope, resources
from reports.details import Resources, Trend
from reports.verdict import OracleStatus

FIELDS = {"descriptors": 13, "mappings": 180, "resident_bytes": 25 << 20, "threads": 1}


def recorded(lives: list[int], of: Callable[[str, int], float] = lambda field, cycle: 0) -> list[dict[str, Any]]:
    """The harness's records of postmasters that lived for so many cycles each; `of` is added to a field's value."""
    records: list[dict[str, Any]] = []
    cycle = 0
    for pid, cycles in enumerate(lives, start=100):
        records.append({"t": cycle, "ev": "postmaster", "child": pid})
        for nth in range(cycles):
            used = {field: int(value + of(field, nth)) for field, value in FIELDS.items()}
            records.append({"t": cycle, "ev": "used", "cycle": cycle, "pid": pid, "role": "postmaster", **used})
            for role in ("checkpointer", "walwriter"):
                child = {"t": cycle, "ev": "used", "cycle": cycle, "pid": 7, "role": role, **FIELDS}
                records.append({**child, "descriptors": 12 + cycle})
            records.append({"t": cycle, "ev": "files", "cycle": cycle, "files": 14 + cycle})
            cycle += 1
    return records


def trend(found: Resources, quantity: str, owner: str = "postmaster") -> Trend:
    (one,) = [t for t in found.trends if (t.owner, t.quantity) == (owner, quantity)]
    return one


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.field)
def test_a_planted_leak_is_found(quantity: Any) -> None:
    """Half a unit of the stated rate more than is allowed, in steps as a real count has them."""
    rate = 1.5 * quantity.most * quantity.one
    found = resources(recorded([400], lambda field, nth: rate * nth if field == quantity.field else 0))
    result = leak.judge(found.trends)
    assert result.status is OracleStatus.FAILED
    (failure,) = result.failures
    gained = trend(found, quantity.name).slope
    assert gained == pytest.approx(1.5 * quantity.most, rel=0.1)
    said = f"the postmaster gains {gained:.3g} {quantity.unit} a cycle ({quantity.name}), surely more than "
    assert failure.message.startswith(said)
    assert failure.evidence[0].startswith("harness: 400 samples in 1 lives of postmasters: slope ")


def test_a_steady_postmaster_holds_whatever_its_children_and_files_do() -> None:
    found = resources(recorded([LEAST_CYCLES]))
    result = leak.judge(found.trends)
    assert (result.status, result.trials, result.failed) == (OracleStatus.HELD, len(QUANTITIES), 0)
    assert trend(found, "descriptors", "children").slope == pytest.approx(2), "the sum of two children"
    assert trend(found, "files", "data directory").slope == pytest.approx(1)
    assert trend(found, "files", "data directory").most is None


@pytest.mark.parametrize(
    "lives", [[LEAST_CYCLES - 1], [LEAST_OF_A_LIFE - 1] * 20], ids=["too few cycles", "too short lives"]
)
def test_too_little_is_not_judged_however_steep(lives: list[int]) -> None:
    result = leak.judge(resources(recorded(lives, lambda field, nth: 1000 * nth)).trends)
    assert (result.status, result.trials) == (OracleStatus.NOT_JUDGED, 0)
    assert result.reason == "it takes 100 cycles of postmasters that live for 40 or more"


def test_what_leaks_in_lives_of_fifty_cycles_is_found_over_all_of_them() -> None:
    """Each postmaster starts low again: from one to the next nothing grew, and within each it did."""
    found = resources(recorded([50] * 4, lambda field, nth: nth // 20 if field == "descriptors" else 0))
    grown = trend(found, "descriptors")
    assert (grown.lives, grown.cycles, grown.judged) == (4, 200, True)
    assert grown.low > 0.02
    assert leak.judge(found.trends).failed == 1


def test_one_life_is_fitted_as_scipy_fits_it() -> None:
    points = [(float(x), float(x % 7 + x // 9)) for x in range(120)]
    known = theilslopes([y for _, y in points], [x for x, _ in points], alpha=0.95)
    assert pooled_slope([points]) == pytest.approx((known.slope, known.low_slope, known.high_slope))


def test_neither_a_first_growth_nor_an_odd_sample_is_a_leak() -> None:
    def grown(field: str, nth: int) -> float:
        return {"resident_bytes": min(nth, 10) << 18, "descriptors": 500 if nth == 60 else 0}.get(field, 0)

    assert leak.judge(resources(recorded([LEAST_CYCLES], grown)).trends).status is OracleStatus.HELD


def test_a_run_without_samples_has_no_trend() -> None:
    assert resources([{"t": 1, "ev": "cycle_begin", "cycle": 0}]) == Resources()
