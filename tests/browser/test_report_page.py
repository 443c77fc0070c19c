"""The pages of runs in a real browser, from files: no request leaves, and readers can sort, filter and compare."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import browser
from recorded import Recorded, commit
from stage_runs import ROOT, succeed_in

from tools.report_page import __main__ as report_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: run `make test ARGS=tests/browser`, which installs it"
)
pytestmark = pytest.mark.slow
Open = Callable[..., "Page"]
# The least contrast of text with what is behind it (WCAG 2, level AA), for each text that shows.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => rgb(colour).slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const own = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [light(own), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) found[`${element.tagName} ${element.className.baseVal ?? element.className}`] = ratio;
  }
  return found;
}"""


@pytest.fixture(scope="module")
def folder(repository: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the runs of a repository, and of DVC's plots."""
    clone = shutil.copytree(repository.folder, tmp_path_factory.mktemp("pages") / "clone", symlinks=True)
    lock, measured = clone / "dvc.lock", clone / "metrics" / "train.json"
    lock.write_text(re.sub(r"train\.seed: \d+", "train.seed: 4321", lock.read_text("utf-8")), encoding="utf-8")
    measured.write_text(measured.read_text("utf-8").replace('"eval_loss": ', '"eval_loss": 9'), encoding="utf-8")
    commit(clone, "another seed")
    for revision in (repository.first, "HEAD"):
        succeed_in(clone, report_page.main, "--rev", revision)
    plots = [sys.executable, "-m", "dvc", "plots", "show", "--html-template", str(ROOT / ".dvc" / "plots_page.html")]
    subprocess.run([*plots, "--out", "reports/plots"], cwd=clone, check=True, capture_output=True)
    return clone / "reports"


@pytest.fixture
def show(folder: Path) -> Iterator[Open]:
    """Open a page by its name. At the end of the test the browser has asked for pages of the folder alone."""
    asked: set[str] = set()
    problems: list[str] = []

    with browser(asked) as new_page:

        def show(name: str, **options: Any) -> "Page":
            page = new_page(**options)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.append(message.text))
            page.goto((folder / name).as_uri())
            return page

        yield show
    assert problems == []
    assert {address for address in asked if not address.startswith((folder.as_uri(), "data:"))} == set()


def page_of(commit: str) -> str:
    return f"{commit[:12]}.html"


def column(page: "Page", number: int) -> list[str]:
    return page.locator(f".runs tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()


def test_a_column_sorts_both_ways_and_says_so(show: Open) -> None:
    page = show("index.html")
    head = page.locator("th", has_text="what")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    falling = column(page, 4)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 4) == falling[::-1] == sorted(falling, key=str.lower)
    assert page.locator('th[aria-sort]:not([aria-sort="none"])').count() == 1


def test_the_filter_leaves_the_rows_with_its_words(show: Open, repository: Recorded) -> None:
    page = show("index.html")
    page.fill("#search", repository.first[:8])
    assert column(page, 2) == [repository.first[:8]]
    assert re.match(r"1 of \d+ runs", page.locator("#count").inner_text())
    page.fill("#search", "no such words")
    assert column(page, 2) == []


def test_two_runs_are_compared_the_older_first(show: Open, repository: Recorded) -> None:
    page = show("index.html")
    newest = column(page, 2)[0]
    for one in (newest, repository.first[:8]):
        page.get_by_label(f"compare {one}").check()
    settings, measured = page.locator("#differences table").all()
    assert settings.locator("thead th").all_inner_texts() == ["name", repository.first[:8], newest, "change"]
    assert settings.locator("tbody th").all_inner_texts() == ["train.seed"]
    assert measured.locator("tbody th").all_inner_texts() == ["train.eval_loss"]
    assert page.locator(".runs input:not(:checked):not(:disabled)").count() == 0
    page.get_by_label(f"compare {repository.first[:8]}").uncheck()
    assert page.locator("#differences table").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(show: Open, repository: Recorded, scheme: str) -> None:
    for name in (page_of(repository.first), "index.html", "plots/index.html"):
        page = show(name, color_scheme=scheme)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert page.evaluate(CONTRAST) == {}, name


def test_the_theme_can_be_chosen_and_stays(show: Open, repository: Recorded) -> None:
    page = show(page_of(repository.first), color_scheme="light")
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    toggle = page.get_by_role("button", name="Theme")
    toggle.click()
    assert page.evaluate(back) == light
    toggle.click()
    assert toggle.inner_text() == "Theme: dark"
    assert page.evaluate(back) != light
    page.reload()
    assert page.get_by_role("button", name="Theme").inner_text() == "Theme: dark"


def test_a_phone_shows_all_of_it_without_scrolling_sideways(show: Open, repository: Recorded) -> None:
    for name in (page_of(repository.first), "index.html", "plots/index.html"):
        page = show(name, width=400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
    page = show(page_of(repository.first), width=400)
    assert page.locator(".lineage.down").is_visible()
    assert not page.locator(".lineage.across").is_visible()


def test_the_lineage_names_every_stage_and_wide_parts_scroll_with_the_keyboard(
    show: Open, repository: Recorded
) -> None:
    page = show(page_of(repository.first))
    drawn = set(page.locator(".lineage.across text").all_text_contents())
    assert {"rows.jsonl", "preprocess", "train", "merge", "awq", "report"} <= drawn
    assert page.locator('.wide[tabindex="0"]:not([aria-label])').count() == 0


def test_paper_gets_the_light_theme_and_no_buttons(show: Open, repository: Recorded) -> None:
    page = show(page_of(repository.first), color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("button", name="Theme").is_visible()


def test_the_plots_of_dvc_are_drawn(show: Open) -> None:
    page = show("plots/index.html")
    assert page.locator("polyline").count() >= 2
    assert page.locator("rect").count() >= 2
    assert page.locator("#plots > div:not(:has(svg, table, img))").count() == 0
