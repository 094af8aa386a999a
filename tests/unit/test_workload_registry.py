"""Workloads that other distributions offer: found by name, looked over, refused in words that say who can mend it.

What could go wrong: a broken module of somebody else's takes the built-in workloads with it; of two that claim a name
the wrong one runs, and a verdict speaks of transactions that nobody meant; a module that is no workload's is found out
by a server that does not start, or worse, by a judge.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.distribution import install
from workloads.registry import BUILT_IN, GROUP, MODULES, WORKLOADS, Modules, Registry, WorkloadUnavailable

ROOT = Path(__file__).parents[2]
PARTS = """
class Named:
    def __init__(self, name): self.name = name
WORKLOAD = Named({workload!r})
PROCEDURES = [Named(name) for name in {procedures!r}]
"""

Offer = Callable[..., Registry]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """Install a module under an entry point; the registry that then is."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str, *, name: str = "guest", value: str = "guest_module") -> Registry:
        install(tmp_path, "a-guest", {name: value}, {"guest_module": source})
        return Registry((*BUILT_IN, *entry_points(group=GROUP)))

    yield make
    sys.modules.pop("guest_module", None)


def refusal(registry: Registry, name: str = "guest") -> str:
    with pytest.raises(WorkloadUnavailable) as refused:
        registry[name]
    return str(refused.value)


def test_the_built_in_ones_are_entries_like_any_other() -> None:
    assert [entry.name for entry in BUILT_IN] == list(WORKLOADS)[: len(BUILT_IN)]
    for entry in BUILT_IN:
        assert WORKLOADS[entry.name].name == entry.name
        assert MODULES[entry.name] == entry.value


def test_a_distribution_offers_a_workload(offer: Offer) -> None:
    registry = offer(PARTS.format(workload="guest", procedures=["guest", "guest_setup", "guest_observe"]))
    assert "guest" in registry and registry["guest"].name == "guest"
    assert Modules(registry)["guest"] == "guest_module"
    assert registry["guest"] is registry["guest"]


def test_a_module_is_not_imported_before_it_is_asked_for(offer: Offer) -> None:
    registry = offer("raise RuntimeError('not today')")
    assert registry["bank"].name == "bank"
    assert refusal(registry) == (
        "the workload 'guest' of a-guest (guest_module) cannot be used: its module cannot be imported: "
        "RuntimeError: not today"
    )


def test_a_module_that_is_not_there(offer: Offer) -> None:
    assert "No module named 'elsewhere'" in refusal(offer("", value="elsewhere"))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "its module has no WORKLOAD"),
        (PARTS.format(workload="host", procedures=[]), "its WORKLOAD has the name 'host' instead of the entry point's"),
        (
            PARTS.format(workload="guest", procedures=["guest"]),
            "its module has no procedure guest_observe, guest_setup in PROCEDURES",
        ),
        ("class W: name = 'guest'\nWORKLOAD = W()", "no procedure guest, guest_observe, guest_setup in PROCEDURES"),
    ],
    ids=["nothing", "another-name", "no-setup", "no-procedures"],
)
def test_a_module_that_is_no_workload_is_refused(offer: Offer, source: str, why: str) -> None:
    assert refusal(offer(source)).endswith(why)


def test_an_entry_point_names_a_module(offer: Offer) -> None:
    assert refusal(offer("", value="guest_module:WORKLOAD")).endswith("must name a module alone, without ':WORKLOAD'")


def test_a_name_that_is_taken_is_nobodys(offer: Offer) -> None:
    registry = offer(PARTS.format(workload="bank", procedures=["bank", "bank_setup", "bank_observe"]), name="bank")
    assert refusal(registry, "bank") == (
        "the workload name 'bank' is taken: crashbed itself (workloads.bank) and a-guest (guest_module) offer it; "
        "uninstall one of them, or have its entry point renamed"
    )
    with pytest.raises(WorkloadUnavailable):
        Modules(registry)["bank"]


def test_a_name_that_nobody_offers() -> None:
    said = refusal(WORKLOADS, "nobodys")
    assert said.startswith("there is no workload 'nobodys'; there are bank, append") and GROUP in said


def test_the_command_line_says_what_is_wrong_before_anything_is_begun(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "a-guest", {"guest": "guest_module"}, {"guest_module": "import nobody_has_this"})
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "run", "--workload", "bank,guest", "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done
    assert "'guest' of a-guest (guest_module) cannot be used" in " ".join(done.stderr.split())
    assert "nobody_has_this" in done.stderr
    assert not (tmp_path / "out").exists()
