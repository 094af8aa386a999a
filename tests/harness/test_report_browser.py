"""The report in a real browser.

What could go wrong: a chart is blank; a script throws; the page's own security policy blocks its own scripts;
the page asks for something over a network; the charts stay light on a dark page; a phone has to scroll
sideways; without scripts the page is empty; the choice of a cycle or a step of the zoom changes nothing, or the linked
charts part ways.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from reports.render import write_reports
from reports.verdict import Status
from tests.chromium import Chromium, find_chromium
from tests.report_fixture import make_run

pytestmark = pytest.mark.skipif(
    find_chromium() is None and not os.environ.get("CI"), reason="no Chromium: install Debian's package chromium"
)

INKS = {
    "chart-ecdf": "accent",
    "chart-cycles": "accent",
    "chart-groups": "muted",
    "chart-median": "accent",
    "chart-worst": "second",
    "chart-states": "good",
    "chart-lanes": "second",
    "chart-lane-phases": "accent",
    "chart-machine": "accent",
    "chart-used-0": "accent",
}
"""Every chart of the page, and a colour that it must show."""

# How many pixels of about one colour a chart's canvases hold, over all of the shadow roots that Bokeh nests. Edges
# are smoothed and dots are translucent, so a pixel counts when it is more than half opaque and near the colour.
PAINTED = """
((id, ink) => {
  const canvases = [];
  const walk = (node) => {
    if (node.tagName === "CANVAS" && node.width > 0 && node.height > 0) canvases.push(node);
    for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) walk(child);
  };
  walk(document.getElementById(id));
  const wanted = ink.match(/[0-9]+/g).map(Number);
  let count = 0;
  for (const canvas of canvases) {
    // Read from a copy: reading a canvas itself makes Chromium warn about the page.
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < data.length; i += 4) {
      count += data[i + 3] > 127 && wanted.every((part, k) => Math.abs(part - data[i + k]) < 12);
    }
  }
  return count;
})
"""

# A custom property of the page as rgb(), as the browser resolves it.
RESOLVED = """
(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = "var(--NAME)";
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Status, Path]:
    base = tmp_path_factory.mktemp("runs")
    return {status: write_reports(make_run(base / status, status, cycles=120, hostile=True)) for status in Status}


def _open(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.wait_for(f"document.documentElement.dataset.charts === '{len(INKS)}'")


def _ink(browser: Chromium, name: str) -> str:
    return str(browser.evaluate(RESOLVED.replace("NAME", name)))


def _wait_until_painted(browser: Chromium, chart: str) -> None:
    """Until a chart holds a number of pixels of the page's colour for it."""
    browser.wait_for(f"{PAINTED.strip()}({chart!r}, {_ink(browser, INKS[chart])!r}) > 40")


@pytest.mark.parametrize("status", list(Status))
def test_every_chart_is_drawn_and_nothing_is_said_or_fetched(
    browser: Chromium, pages: dict[Status, Path], status: Status
) -> None:
    browser.device()
    _open(browser, pages[status])
    for chart in INKS:
        _wait_until_painted(browser, chart)
    assert browser.exceptions == []
    assert [entry for entry in browser.console if entry[0] in ("error", "warning", "assert")] == []
    assert browser.requests == [pages[status].as_uri()], "the page is all that was asked for"


def test_the_charts_follow_the_reader_into_the_dark_and_back(browser: Chromium, pages: dict[Status, Path]) -> None:
    browser.device(dark=False)
    _open(browser, pages[Status.HELD])
    seen = []
    for dark in (False, True, False):
        browser.scheme(dark=dark)
        browser.wait_for(f"matchMedia('(prefers-color-scheme: dark)').matches === {str(dark).lower()}")
        for chart in INKS:
            _wait_until_painted(browser, chart)
        seen.append((_ink(browser, "accent"), browser.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert seen[0] == seen[2] != seen[1]


LINKED = "Bokeh.documents.find((each) => each.get_model_by_name('time') !== null)"
AXES = """
["states", "lanes", "phases"].map((name) => {
  const axis = LINKED.get_model_by_name(`figure-${name}`).x_range;
  return [axis.start, axis.end];
})
"""
ROWS = f"{LINKED}.get_model_by_name('figure-lanes').y_range.factors"


def _axes(browser: Chromium) -> tuple[float, float]:
    """The time shown, which is the same in the three linked charts."""
    shown = browser.evaluate(AXES.replace("LINKED", LINKED))
    assert shown[0] == shown[1] == shown[2]
    start, end = shown[0]
    return start, end


def test_the_buttons_zoom_all_three_and_stop_at_the_ends(browser: Chromium, pages: dict[Status, Path]) -> None:
    browser.device()
    _open(browser, pages[Status.HELD])

    def press(name: str) -> tuple[float, float]:
        # By keyboard: the button takes the focus and the space bar presses it.
        browser.evaluate(f"document.querySelector('[data-zoom={name}]').focus()")
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", {"type": kind, "key": " ", "code": "Space", "text": " "})
        return _axes(browser)

    first = _axes(browser)
    near = press("in")
    assert near[1] - near[0] == pytest.approx((first[1] - first[0]) / 2)
    assert press("later")[0] > near[0]
    whole = press("whole")
    assert whole == (-80.0, 40.0), "the cycle of the fixture"
    assert press("out") == press("earlier") == press("later") == whole, "there is nothing beyond the cycle"
    assert browser.evaluate("document.getElementById('window').textContent").startswith("Shown: -80.0 to 40.0 ms")
    assert press("view") == first
    assert browser.exceptions == []


def test_another_cycle_is_drawn_when_it_is_chosen(browser: Chromium, pages: dict[Status, Path]) -> None:
    browser.device()
    _open(browser, pages[Status.HELD])
    assert browser.evaluate(ROWS) == ["startup 1003", "walwriter 1002", "backend 1001", "postmaster 1000"]
    before = browser.evaluate(f"{LINKED}.get_model_by_name('lanes-startup').data.right[0]")
    browser.evaluate(
        "(() => { const box = document.getElementById('cycle');"
        " box.value = '1'; box.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate(ROWS) == ["startup 2003", "walwriter 2002", "backend 2001", "postmaster 2000"]
    assert browser.evaluate(f"{LINKED}.get_model_by_name('lanes-startup').data.right[0]") < before
    for chart in ("chart-states", "chart-lanes", "chart-lane-phases"):
        _wait_until_painted(browser, chart)
    assert browser.exceptions == []


def test_both_schemes_can_be_looked_at(browser: Chromium, pages: dict[Status, Path], tmp_path: Path) -> None:
    """Screenshots of the whole page, which must differ in how bright they are and in nothing of their size."""
    sizes = []
    for dark in (False, True):
        browser.device(dark=dark)
        _open(browser, pages[Status.FINDING])
        shot = tmp_path / f"dark-{dark}.png"
        browser.screenshot(shot)
        data = shot.read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append((data[16:24], len(data)))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] != sizes[1][1]


def _luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(browser: Chromium, pages: dict[Status, Path], dark: bool) -> None:
    """At least 4.5:1 (WCAG 2.2, AA) for each colour of text on each ground that it is used on."""
    browser.device(dark=dark)
    _open(browser, pages[Status.HELD])
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "panel")]
    for tone in ("good", "bad", "warn"):
        pairs += [(tone, "page"), (tone, f"{tone}-wash"), ("ink", f"{tone}-wash"), ("soft", f"{tone}-wash")]
    for ink, ground in pairs:
        high, low = sorted((_luminance(_ink(browser, ink)), _luminance(_ink(browser, ground))), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {ground}, dark={dark}"


@pytest.mark.parametrize("status", list(Status))
def test_a_phone_does_not_scroll_sideways(browser: Chromium, pages: dict[Status, Path], status: Status) -> None:
    browser.device(width=390, height=844, mobile=True)
    _open(browser, pages[status])
    browser.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_the_tables_say_it_all(browser: Chromium, pages: dict[Status, Path]) -> None:
    browser.device()
    browser.scripts(enabled=False)
    try:
        browser.open(pages[Status.FINDING])
        text = browser.evaluate("document.body.innerText")
        shown = browser.evaluate(
            "[...document.querySelectorAll('.chart, .copy')]"
            ".filter((element) => getComputedStyle(element).display !== 'none').length"
        )
    finally:
        browser.scripts(enabled=True)
    assert shown == 0, "no empty boxes where charts would be"
    for said in ("Finding", "crashbed replay", "Acknowledged work is found again", "median", "Notice", "lost"):
        assert said in text


def test_keyboard_and_screen_reader_find_their_way(browser: Chromium, pages: dict[Status, Path]) -> None:
    browser.device()
    _open(browser, pages[Status.FINDING])
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("document.querySelectorAll('main, header, footer, nav').length") == 4
    assert browser.evaluate("document.querySelectorAll('h1').length") == 1
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    pictures = [name for role, name in named if role in ("image", "img")]
    assert len(pictures) == len(INKS)
    assert all(pictures), "each chart has a sentence for who cannot see it"
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level of headings is skipped"
    assert browser.evaluate("document.querySelector('label[for=cycle]').control.id") == "cycle"
    unnamed = browser.evaluate(
        "[...document.querySelectorAll('table')].filter((table) => !table.caption"
        " && !table.closest('[aria-label], [aria-labelledby]')).length"
    )
    assert unnamed == 0, "each table is named by its caption or its region"
    assert browser.evaluate("[...document.querySelectorAll('th')].every((th) => th.scope)")
    regions = [name for role, name in named if role == "region"]
    assert {"✗ Finding", "Oracles", "Durability ledger"} & set(regions)
    assert all(regions), "a region without a name is noise"
    assert all(name for role, name in named if role in ("button", "link"))
    missing = browser.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter((a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash)"
    )
    assert missing == []
