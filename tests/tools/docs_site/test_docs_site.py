"""The docs site: every link leads somewhere, and a browser finds words in it without asking any other host."""

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from needs import missing
from stage_runs import ROOT, fail_in, succeed_in

from tools.docs.agents import PAGES
from tools.docs_site import __main__ as tool

if TYPE_CHECKING:
    from playwright.sync_api import Page

ZENSICAL = ROOT / ".serve" / "site" / "bin" / "zensical"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Links(HTMLParser):
    """What a page links to, what it loads by itself, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        if tag == "link" and found.get("rel") != "canonical":
            self.loaded.add(found["href"])
        if "src" in found:
            self.loaded.add(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs-site` does."""
    if not ZENSICAL.exists():
        missing("site")
    out = tmp_path_factory.mktemp("site")
    succeed_in(ROOT, tool.main, "--out", out, "--zensical", ZENSICAL)
    return out / "html"


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    assert {f"{name}.html" for name in (*PAGES, "index")} <= {page.name for page in site.glob("*.html")}


@pytest.mark.slow
def test_every_link_and_anchor_leads_somewhere_and_nothing_comes_from_other_hosts(site: Path) -> None:
    pages = {page: Links(page) for page in sorted(site.glob("*.html")) if page.name != "404.html"}
    wrong = []
    for page, found in pages.items():
        wrong += [f"{page.name} loads {one}" for one in found.loaded if urlsplit(one).netloc]
        for link in (*found.links, *found.loaded):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = page.parent / unquote(address.path) if address.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{page.name}: {link}: no such file")
            elif address.fragment and target in pages and unquote(address.fragment) not in pages[target].anchors:
                wrong.append(f"{page.name}: {link}: no such anchor")
    assert wrong == []


@pytest.fixture
def browser_page(site: Path) -> Iterator[tuple["Page", list[str]]]:
    """A browser on the first page, opened from the disk, and the addresses that it asks for."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        missing("chromium")
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        yield page, asked
        browser.close()


@pytest.mark.slow
def test_a_browser_searches_without_a_server_or_a_network(browser_page: tuple["Page", list[str]], site: Path) -> None:
    page, asked = browser_page
    for name in ("train", "params", "troubleshooting"):
        page.goto((site / f"{name}.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("neat_packing", delay=20)
    page.get_by_text("neat_packing").first.wait_for(timeout=60_000)
    page.get_by_role("link", name="Coming from").first.wait_for(timeout=60_000)
    folder = ROOT / "logs" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / "docs-search.png")
    (folder / "docs-requests.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
    assert len(asked) > 10
    assert [one for one in asked if urlsplit(one).scheme not in ("file", "data", "blob")] == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "train.md#no-such-part"])
def test_a_broken_link_is_an_error(tmp_path: Path, link: str) -> None:
    if not ZENSICAL.exists():
        missing("site")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(f"{readme}\n[broken](docs/{link})\n", encoding="utf-8")
    problem = fail_in(tmp_path, tool.main, "--zensical", ZENSICAL)
    assert problem.startswith("docs/ cannot be built; correct the pages (index.md is README.md):\n")
    assert f"[broken]({link})" in problem
    assert "Traceback" not in problem


def test_without_the_generator_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    assert fail_in(tmp_path, tool.main) == (
        ".serve/site/bin/zensical: Zensical is not installed; `make docs-site` installs it"
    )


def test_links_start_in_docs_and_end_there() -> None:
    assert tool.home("see [train](docs/train.md#methods), [us](https://x.y)") == (
        "see [train](train.md#methods), [us](https://x.y)"
    )
    assert tool.within("see [docker/page.conf](../docker/page.conf) and [train](train.md)") == (
        "see docker/page.conf and [train](train.md)"
    )


def test_every_page_of_docs_is_listed() -> None:
    assert sorted(PAGES) == sorted(page.stem for page in (ROOT / "docs").glob("*.md"))
