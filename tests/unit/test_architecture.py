"""The shape of the code: who may import whom, what a server process may load, and where it may block.

A layer that reaches upwards, a harness library in a server process or a second place that blocks would
each work for a while, and each would cost what the design bought: a server that forks cheaply, an engine
that runs in one process under simulation, and a SIGQUIT that always ends a wait.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Lowest first. A module belongs to the longest prefix that names it; it may import its own layer and below.
SUPERVISOR_LAYERS: tuple[tuple[str, ...], ...] = (
    ("supervisor.roles", "supervisor.errors", "supervisor.points", "supervisor.host", "supervisor.config"),
    ("supervisor.background_worker",),
    ("supervisor.log",),
    ("supervisor.config_file",),
    ("supervisor.shmem",),
    ("supervisor.engine.disk",),
    ("supervisor.engine.wal",),
    ("supervisor.engine.recovery.control",),
    ("supervisor.engine.storage",),
    ("supervisor.engine.transam",),
    ("supervisor.engine.access",),
    ("supervisor.engine.recovery.checkpoint", "supervisor.engine.recovery.leftovers"),
    ("supervisor.engine.engine",),
    ("supervisor.engine.recovery",),
    ("supervisor.engine.verify",),
    ("supervisor.session",),
    ("supervisor.sql", "supervisor.wire"),
    ("supervisor.processes",),
    ("supervisor.examples",),
    ("supervisor.postmaster",),
    ("supervisor.__main__",),
)
PACKAGES = {
    "supervisor": {"supervisor"},
    "workloads": {"workloads"},
    "reports": {"reports"},
    "chaos": {"chaos", "supervisor", "workloads", "reports"},
}
# What the engine may not import: it also runs in one process under simulation, where none of this is real.
NOT_IN_ENGINE = {"os", "signal", "socket", "time", "threading", "multiprocessing", "subprocess", "select", "asyncio"}
# What may be loaded in a server process besides the standard library.
IN_A_SERVER = {"supervisor", "workloads", "msgspec", "postgast", "google_crc32c", "google", "typing_extensions"}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text())


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if is_module(module) else node.module


def layer(module: str) -> int | None:
    best: tuple[int, int] | None = None
    for number, prefixes in enumerate(SUPERVISOR_LAYERS):
        for prefix in prefixes:
            if (module == prefix or module.startswith(prefix + ".")) and (best is None or len(prefix) > best[0]):
                best = (len(prefix), number)
    return None if best is None else best[1]


def upward_imports(name: str, tree: ast.Module) -> list[str]:
    mine = layer(name)
    if mine is None:
        return []
    found = []
    for target in imported(tree):
        theirs = layer(target)
        if theirs is not None and theirs > mine:
            found.append(f"{name} imports {target}, which is above it")
    return found


def test_supervisor_imports_only_downwards() -> None:
    assert [line for name, tree in modules("supervisor") for line in upward_imports(name, tree)] == []


def test_an_upward_import_is_noticed() -> None:
    planted = ast.parse("from supervisor.session.session import Session")
    assert upward_imports("supervisor.engine.wal.insert", planted)


def test_every_module_of_the_supervisor_has_a_layer() -> None:
    packages = {"supervisor", "supervisor.engine"}
    assert [name for name, _ in modules("supervisor") if layer(name) is None and name not in packages] == []


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_one_way(package: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules(package)
        for target in imported(tree)
        if target.split(".")[0] in PACKAGES and target.split(".")[0] not in PACKAGES[package]
    ]
    assert wrong == []


def test_the_engine_asks_the_world_for_nothing_but_through_its_seams() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules("supervisor/engine")
        for target in imported(tree)
        if target.split(".")[0] in NOT_IN_ENGINE and name != "supervisor.engine.disk.posix"
    ]
    assert wrong == []


def test_a_server_process_loads_little_and_has_one_thread() -> None:
    program = (
        "import sys, os\n"
        "before = set(sys.modules)\n"
        "import supervisor.__main__, workloads.bank, workloads.append, workloads.tpcb, workloads.customers\n"
        "loaded = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "print(*sorted(m for m in loaded if m not in sys.stdlib_module_names))\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names, threads = done.stdout.splitlines()
    assert {name for name in names.split() if not name.startswith("_")} <= IN_A_SERVER
    assert threads == "1"


def blocking_calls(name: str, tree: ast.Module) -> list[str]:
    """Calls that can block without bound: sleeps, selects, waits for children, blocking locks."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        if called in {"time.sleep", "select.select", "os.wait", "os.waitpid", "signal.pause", "signal.sigwait"}:
            found.append(f"{name}: {called}")
        if called == "os.wait4" and "WNOHANG" not in ast.unparse(node):
            found.append(f"{name}: {ast.unparse(node)}")
        if node.func.attr == "poll" and name != "supervisor.host":
            found.append(f"{name}: {called}")
        if node.func.attr == "setblocking" and ast.unparse(node.args[0]) != "False":
            found.append(f"{name}: {ast.unparse(node)}")
    return found


def test_one_place_blocks() -> None:
    assert [line for name, tree in modules("supervisor") for line in blocking_calls(name, tree)] == []


def test_a_second_place_that_blocks_is_noticed() -> None:
    planted = ast.parse("import time, os\ntime.sleep(1)\nos.wait4(-1, 0)\n")
    assert len(blocking_calls("supervisor.processes.walwriter", planted)) == 2


def module_level_mutables(name: str, tree: ast.Module) -> list[str]:
    """Module-level names bound to a list, set or dict display and not written as constants."""
    found = []
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(value, ast.List | ast.Set | ast.Dict | ast.ListComp | ast.SetComp | ast.DictComp):
            for target in targets:
                written = ast.unparse(target)
                if not written.lstrip("_").isupper() and written != "__all__":
                    found.append(f"{name}: {ast.unparse(target)}")
        found += [f"{name}: global {', '.join(n.names)}" for n in ast.walk(node) if isinstance(n, ast.Global)]
    return found


def test_the_server_has_no_module_level_mutable_state() -> None:
    assert [line for name, tree in modules("supervisor") for line in module_level_mutables(name, tree)] == []
