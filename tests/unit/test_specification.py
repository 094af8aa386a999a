"""Every place of the specification that a comment cites has its heading on the page.

A comment that says "specification 5.1" sends its reader to a page. A section that is not there is a rule without a
source, and nobody would notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "specification.md").read_text()
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
CITATION = re.compile(rf"\b(specification|checklist)\s+({_NUMBER}(?:(?:,\s+|\s+and\s+|-){_NUMBER})*)")
ITEM = re.compile(r"specification\s+([0-9]+\.[0-9]+)\s+no\.\s+([0-9]+)")
FOLDERS = ("supervisor", "chaos", "workloads", "reports", "tests")


def numbers(text: str) -> Iterator[str]:
    """What a list such as `1.5-1.7, 2.3` names, each number."""
    for part in re.split(r",\s+|\s+and\s+", text):
        first, _, last = part.partition("-")
        yield first
        if last:
            section, _, begin = first.rpartition(".")
            end = last.rpartition(".")[2]
            yield from (f"{section}.{n}" if section else str(n) for n in range(int(begin) + 1, int(end) + 1))


def citations() -> Iterator[tuple[str, str, str]]:
    """Where, of what (`specification` or `checklist`), and which."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if path == Path(__file__):
            continue
        text = path.read_text().replace("\n#", "\n")
        for match in CITATION.finditer(text):
            for number in numbers(match[2]):
                yield path.relative_to(ROOT).as_posix(), match[1], number


def test_the_code_cites_it_at_all() -> None:
    assert {kind for _, kind, _ in citations()} == {"specification", "checklist"}
    assert list(numbers("1.5-1.7, 2.3 and 4.1")) == ["1.5", "1.6", "1.7", "2.3", "4.1"]


@pytest.mark.parametrize(("kind", "number"), sorted({(kind, number) for _, kind, number in citations()}), ids=str)
def test_every_citation_has_its_place(kind: str, number: str) -> None:
    places = [path for path, of, cited in citations() if (of, cited) == (kind, number)]
    head = rf"^#+ {re.escape(number)}[. ]" if kind == "specification" else rf"^- {number}: "
    assert re.search(head, PAGE, re.MULTILINE), f"{', '.join(places)} cite {kind} {number}"


def test_every_numbered_consequence_has_its_line() -> None:
    cited = {
        match.groups()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for match in ITEM.finditer(path.read_text())
    }
    assert cited
    for section, number in cited:
        body = re.split(r"^#+ ", PAGE.partition(f"### {section} ")[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert re.search(rf"^{number}\. ", body, re.MULTILINE), f"specification {section} no. {number}"
