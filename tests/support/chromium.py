"""Chromium: a page in a real browser, and what the browser asked for."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from needs import missing

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@contextmanager
def browser(asked: set[str]) -> Iterator["Callable[..., Page]"]:
    """Start a browser, and yield a function that opens a new page: `new_page(width=400, color_scheme="dark")`.

    Args:
        asked: gets the address of every request and websocket.
    """
    from playwright.sync_api import sync_playwright

    if not CHROMIUM:
        missing("chromium")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def new_page(width: int = 1280, **options: Any) -> "Page":
            page = started.new_page(viewport={"width": width, "height": 800}, locale="en-GB", **options)
            page.set_default_timeout(120_000)
            page.on("request", lambda request: asked.add(request.url))
            page.on("websocket", lambda socket: asked.add(socket.url))
            return page

        yield new_page
        started.close()
