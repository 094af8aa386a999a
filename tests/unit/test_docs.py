"""The documents name what is there.

Prose goes stale in silence: a file is moved, an option renamed, and the page that names it sends the next reader
nowhere. So every path, module, link and command in a document is looked up. A path counts as there when files of the
repository stand behind it: an empty folder exists on one machine only.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
import pytest

from chaos.cli.main import crashbed
from chaos.faults import FAULTS
from chaos.oracles import internal_error, isolation, observable, storage, wal_replay
from chaos.oracles.data import OF_LEDGER
from chaos.oracles.registry import SUPERVISION
from chaos.selector import parse_selector

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        README,
        ROOT / "CHANGELOG.md",
        ROOT / "supervisor" / "README.md",
        ROOT / "tests" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    )
)
PACKAGES = ("supervisor", "chaos", "workloads", "reports")
# Suffixes of files that only a repository has; and names of a run directory and a data directory.
OURS = frozenset({".py", ".md", ".toml", ".lock", ".png", ".j2", ".css"})
OF_A_RUN = frozenset({"summary.md", "events", "history", "pgdata", "code", "base", "global", "pg_wal"})
NOT_OURS = frozenset({"__pycache__", ".venv", ".git", "out"})

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"\.?[\w-]+(?:[./-][\w-]+)*/?")


def text_of(document: str) -> str:
    """A document without the columns of its tables that speak of PostgreSQL's files."""
    lines = []
    foreign: list[int] = []
    for line in (ROOT / document).read_text().splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            foreign = []
        elif not foreign:
            foreign = [number for number, cell in enumerate(cells) if cell.strip() == "PostgreSQL"]
        lines.append("|".join(cell for number, cell in enumerate(cells) if number not in foreign))
    return "\n".join(lines)


@cache
def repository() -> frozenset[str]:
    """Every file, and every folder that has one, relative to the root."""
    found: set[str] = set()
    for top in ROOT.iterdir():
        if top.name in NOT_OURS:
            continue
        for path in (top, *(top.rglob("*") if top.is_dir() else ())):
            inside = path.relative_to(ROOT)
            if path.is_file() and not NOT_OURS & set(inside.parts):
                found.update(inside_of.as_posix() for inside_of in (inside, *inside.parents[:-1]))
    return frozenset(found)


def looks_like_a_path(token: str, document: str) -> bool:
    """Whether a piece of code in a document claims to be a file or folder of the repository."""
    if PATH.fullmatch(token) is None or Path(token).parts[0] in OF_A_RUN | NOT_OURS:
        return False
    if Path(token).suffix in OURS:
        return True
    first = token.split("/", 1)[0]
    beside = ROOT / Path(document).parent / first
    return "/" in token and ((ROOT / first).is_dir() or beside.is_dir() or token.endswith("/"))


def is_there(token: str, document: str) -> bool:
    """From the root, from the document's own folder, or, in prose about one folder, by the end of the path."""
    wanted = token.rstrip("/")
    beside = (Path(document).parent / wanted).as_posix()
    if {wanted, beside} & repository():
        return True
    return Path(wanted).suffix in OURS and any(path.endswith(f"/{wanted}") for path in repository())


def code_in(text: str) -> list[str]:
    """Code in the running text, fenced blocks, indented lines."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return [*CODE.findall(text), *fenced, *re.findall(r"^ {4}(\S.*)$", text, re.M)]


def commands(text: str) -> Iterator[list[str]]:
    """What documents say after `crashbed`, in code blocks and in the running text, without the remark behind it."""
    for line in "\n".join(code_in(text)).splitlines():
        for said in re.findall(r"(?:^|reproduce: |&& )crashbed ([a-z].*?)(?= && |$)", line.strip()):
            yield shlex.split(re.split(r" {3,}| +#", said)[0])


def unknown_in(command: list[str]) -> list[str]:
    """The verb or options of a command line that `crashbed` does not have."""
    verb, *words = command
    found = crashbed.commands.get(verb)
    if found is None:
        return [verb]
    known = {name for option in found.params if isinstance(option, click.Option) for name in option.opts}
    wrong = [word for word in words if re.match(r"--?[a-zA-Z]", word) and word not in known | {"--help", "-h"}]
    for option, value in pairwise(words):
        if option == "--point":
            parse_selector(value)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_is_there(document: str) -> None:
    # A command names paths too: `pytest tests/unit/test_docs.py -k path`.
    words = {word for code in CODE.findall(text_of(document)) for word in code.split()}
    tokens = {word for word in words if looks_like_a_path(word, document)}
    assert sorted(token for token in tokens if not is_there(token, document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_is_there(document: str) -> None:
    wrong = []
    for name in re.findall(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+", " ".join(CODE.findall(text_of(document)))):
        if Path(name).suffix in OURS:
            continue
        parts = name.split(".")
        depth = next(n for n in range(len(parts), 0, -1) if module_file(parts[:n]) is not None)
        file = module_file(parts[:depth])
        # What is left over is a name within the module.
        if file is None or any(not re.search(rf"\b{part}\b", file.read_text()) for part in parts[depth:]):
            wrong.append(name)
    assert wrong == []


def module_file(parts: list[str]) -> Path | None:
    path = ROOT.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document: str) -> None:
    wrong = []
    for target in LINK.findall(text_of(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        inside = file.resolve().relative_to(ROOT).as_posix()
        if inside not in repository() or (anchor and anchor not in headings(file)):
            wrong.append(target)
    assert wrong == []


def headings(file: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_can_be_given(document: str) -> None:
    text = text_of(document)
    assert [(command, wrong) for command in commands(text) if (wrong := unknown_in(command))] == []
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {target for code in code_in(text) for target in re.findall(r"^make ([a-z]+)", code, re.M)}
    assert named <= rules


def test_the_walk_names_functions_that_are_there() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| (.+) \|$", (ROOT / "docs" / "walk.md").read_text(), re.M)
    named = [(path, name) for path, names in rows for name in CODE.findall(names)]
    assert len(named) > 30
    assert [(path, name) for path, name in named if not defines((ROOT / path).read_text(), name)] == []


def defines(code: str, name: str) -> bool:
    """Whether a module defines `function`, `Class` or `Class.method`."""
    owner, _, method = name.rpartition(".")
    body: list[ast.stmt] = ast.parse(code).body
    for part in (owner, method) if owner else (name,):
        found = next((n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part), None)
        if found is None:
            return False
        body = found.body
    return True


def test_the_guide_has_every_fault_as_the_registry_has_it() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "guide.md").read_text(), re.M)
    assert [row for row in rows if row[0] in FAULTS] == [
        (fault.name, fault.does, fault.causes.value) for fault in FAULTS.values()
    ]


def test_the_readme_begins_with_the_two_commands() -> None:
    text = README.read_text()
    assert {f"make {target}" for target in ("run", "test", "demo", "check")} <= set(re.findall(r"make [a-z]+", text))
    # Two commands and nothing before them.
    first = re.search(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make run", "make test"]
    assert text.index("make run") < text.index("\n## ")


def test_the_readme_has_every_rule() -> None:
    told = set(re.findall(r"^\| ([^|]+) \| [^|]+ \|$", README.read_text(), re.M))
    assert {title for title, _ in OF_LEDGER.values()} - told == set()
    others = (
        wal_replay.TITLE,
        isolation.TITLE,
        observable.TITLE,
        internal_error.TITLE,
        storage.TITLE,
        *(oracle.title for oracle in SUPERVISION),
    )
    assert set(others) - told == set()


def test_the_gate_runs_what_the_readme_says() -> None:
    gate = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in gate if line.startswith("make ")] == ["make check", "make test"]


def test_what_went_stale_is_noticed() -> None:
    document = "supervisor/README.md"
    assert looks_like_a_path("supervisor/gone.py", document)
    assert not is_there("supervisor/gone.py", document)
    assert is_there("shmem/lwlock.py", "docs/decisions/0002-libraries.md")
    assert is_there("engine/wal/", document)
    assert not is_there("engine/gone/", document)
    assert not looks_like_a_path("history/<pid>.jsonl", document)
    assert not defines("class A:\n def b(self): ...", "A.c") and defines("class A:\n def b(self): ...", "A.b")
    assert list(commands("    crashbed run --kils 3    more of them")) == [["run", "--kils", "3"]]
    assert unknown_in(["run", "--kils", "3"]) == ["--kils"]
    assert unknown_in(["rum"]) == ["rum"]
