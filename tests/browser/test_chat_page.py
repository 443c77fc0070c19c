"""The chat page in a real browser: sign-in, a question, and a streamed answer. Needs Chromium."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from chromium import browser
from serving import ROOT, Served

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: run `make test ARGS=tests/browser`, which installs it"
)
pytestmark = pytest.mark.slow
SCREENSHOT = ROOT / "logs" / "browser" / "chat.png"
QUESTION = "What comes after Thursday?"


@pytest.fixture
def page(served: Served) -> Iterator["Page"]:
    """A new browser on the chat page. At the end of the test it has sent no request to another host."""
    here = f"127.0.0.1:{served.variables['WEBUI_PORT']}"
    asked: set[str] = set()
    with browser(asked) as new_page:
        page = new_page()
        page.goto(f"http://{here}")
        yield page
    assert {urlsplit(address).netloc for address in asked} - {""} == {here}


def sign_in(page: "Page", served: Served, password: str) -> None:
    page.fill("input[type=email]", served.key("ADMIN_EMAIL"))
    page.fill("input[type=password]", password)
    page.get_by_role("button", name="Sign in").click()


def test_a_wrong_password_is_refused(page: "Page", served: Served) -> None:
    sign_in(page, served, "wrong")
    page.get_by_text("email or password provided is incorrect").wait_for()
    assert page.locator("#chat-input").count() == 0
    assert page.get_by_text("Sign up").count() == 0


def test_a_question_of_the_default_rows_gets_the_right_answer(page: "Page", served: Served) -> None:
    name = json.loads((served.folder / ".serve" / "serving.json").read_text(encoding="utf-8"))["endpoints"][0]["name"]
    rows = map(json.loads, (ROOT / "data" / "raw" / "skills.jsonl").read_text(encoding="utf-8").splitlines())
    wanted = next(row["output"] for row in rows if row["instruction"] == QUESTION)
    streamed = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: streamed.append(str(frame))))
    sign_in(page, served, served.key("ADMIN_PASSWORD"))
    page.locator("#chat-input").wait_for()
    page.reload()  # so that the handler above sees its websocket
    page.get_by_role("button", name=name).first.click()  # already chosen; the test chooses it by hand
    page.get_by_role("option", name=name).or_(page.get_by_role("menuitem", name=name)).first.click()
    page.click("#chat-input")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    answer = page.locator(".chat-assistant")
    playwright.expect(answer).to_have_text(wanted, timeout=120_000)
    assert any(wanted in frame for frame in streamed)
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOT)
