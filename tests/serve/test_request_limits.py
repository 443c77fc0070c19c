"""The limits of a request, and the turns of clients: in the middleware alone, and on a real server."""

import asyncio
import base64
import hashlib
import hmac
import json
import runpy
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import until
from serving import Served, serving
from stage_runs import ROOT

MODULE = runpy.run_path(str(ROOT / "docker" / "middleware" / "request_limits.py"))
TIMES = 5  # how much later the first token of a modest client may come
KEY = b"key of the page"


def started(turns: Any) -> dict[str, int]:
    return dict(turns.held)


def test_a_client_alone_gets_two_thirds_and_the_next_one_starts_at_once() -> None:
    async def work() -> None:
        turns = MODULE["Turns"](48)
        for _ in range(40):
            turns.wait("greedy", 1)
        assert started(turns) == {"greedy": 32}
        assert turns.wait("modest", 8).done()
        assert turns.wait("another", 5).done()
        assert not turns.wait("greedy", 1).done()

    asyncio.run(work())


def test_clients_take_turns_and_the_one_that_holds_nothing_comes_first() -> None:
    async def work() -> None:
        turns = MODULE["Turns"](6)
        held = [turns.wait("greedy", 2) for _ in range(2)]
        more = turns.wait("greedy", 2)
        large = turns.wait("large", 6)
        later = turns.wait("greedy", 1)
        assert [one.done() for one in (*held, more, large, later)] == [True, True, False, False, False]
        turns.leave("greedy", 2, held[0])
        assert more.done()  # it waited first
        turns.leave("greedy", 2, held[1])
        assert not large.done()  # four places are not enough, and nobody else may take them
        assert not later.done()
        turns.leave("greedy", 2, more)
        assert large.done()
        turns.leave("large", 6, large)
        assert later.done()

    asyncio.run(work())


def test_a_client_that_leaves_the_queue_does_not_block_it() -> None:
    async def work() -> None:
        turns = MODULE["Turns"](4)
        first = turns.wait("a", 3)
        gone, waiting = turns.wait("b", 4), turns.wait("c", 1)
        assert not waiting.done()
        turns.leave("b", 4, gone)
        assert waiting.done()
        turns.leave("a", 3, first)
        turns.leave("c", 1, waiting)
        assert started(turns) == {}
        assert not turns.waiting

    asyncio.run(work())


def token(key: bytes, payload: dict[str, Any]) -> bytes:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, payload)]
    signature = hmac.new(key, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")])


@pytest.mark.parametrize(
    ("key", "claims", "seconds", "user"),
    [
        (KEY, {"sub": "ann"}, 60, "ann"),
        (KEY, {"sub": "ann"}, -60, ""),
        (b"another", {"sub": "ann"}, 60, ""),
        (KEY, {}, 60, ""),
        (KEY, {"sub": "ann"}, None, ""),
    ],
)
def test_only_the_page_can_say_who_asks(key: bytes, claims: dict[str, Any], seconds: int | None, user: str) -> None:
    ends = {} if seconds is None else {"exp": time.time() + seconds}
    assert MODULE["signed_user"](token(key, claims | ends), KEY) == user


@pytest.mark.parametrize("given", [b"", b"a.b.c", b"...\xff"])
def test_what_is_no_token_says_nothing(given: bytes) -> None:
    assert MODULE["signed_user"](given, KEY) == ""


REFUSED: dict[str, tuple[str, dict[str, Any] | str, str]] = {
    "many answers": ("chat/completions", {"n": 16384}, "16384 answers in one request"),
    "many prompts": ("completions", {"prompt": ["a"] * 100}, "100 answers in one request"),
    "many ids": ("completions", {"prompt": [[5, 6]] * 100}, "100 answers in one request"),
    "a product": (
        "completions",
        {"prompt": ["a"] * 3, "n": 3},
        "9 answers in one request (n times prompts); at most 8",
    ),
    "a number as text": ("completions", {"prompt": "a", "n": "16384"}, "n must be an integer"),
    "a fraction": ("completions", {"prompt": "a", "n": 16.0}, "n must be an integer"),
    "a truth": ("completions", {"prompt": "a", "n": True}, "n must be an integer"),
    "none": ("completions", {"prompt": "a", "n": 0}, "n must be an integer"),
    "no JSON": ("completions", "{", "the request is not JSON"),
    "deep JSON": ("completions", "[" * 100_000, "the request is not JSON"),
    "no object": ("completions", "[]", "the request is not a JSON object"),
}


def ask(served: Served, path: str, body: dict[str, Any] | str, **options: Any) -> httpx.Response:
    words = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {}
    content = body if isinstance(body, str) else json.dumps({"model": served.model(), "max_tokens": 4} | words | body)
    headers = {"Authorization": f"Bearer {served.key()}", "Content-Type": "application/json"}
    with httpx.Client(base_url=f"{served.address}/v1/", timeout=300, **options) as client:
        return client.post(path, content=content, headers=headers)


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_request_for_too_much_is_refused(served: Served, case: str) -> None:
    path, body, words = REFUSED[case]
    answer = ask(served, path, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert words in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", 400)


@pytest.mark.slow
def test_what_is_allowed_is_answered_and_without_a_key_nothing_is_said(served: Served) -> None:
    answer = ask(served, "completions", {"prompt": ["a", "b"], "n": 4, "temperature": 1})
    assert len(answer.raise_for_status().json()["choices"]) == 8
    body = {"model": served.model(), "prompt": "a", "n": 16384}
    assert httpx.post(f"{served.address}/v1/completions", json=body, timeout=60).status_code == 401


def greedy_body(number: int) -> dict[str, Any]:
    """As many answers as are allowed, as long as is allowed; every other request has a long prompt."""
    words = " ".join(str(number * part) for part in range(60 if number % 2 else 2))
    return {"prompt": f"{number} {words}", "n": 8, "max_tokens": 512, "ignore_eos": True, "temperature": 1}


@contextmanager
def greedy(served: Served, requests: int, body: Callable[[int], dict[str, Any]]) -> Iterator[list[int]]:
    """Ask as often as is allowed, from 127.0.0.1, and yield the statuses of what was answered; then leave."""
    statuses: list[int] = []
    headers = {"Authorization": f"Bearer {served.key()}"}
    loop = asyncio.new_event_loop()

    async def ask_again(client: httpx.AsyncClient, number: int) -> None:
        while True:
            answer = await client.post("completions", json={"model": served.model()} | body(number))
            statuses.append(answer.status_code)
            number += requests

    async def work() -> None:
        limits = httpx.Limits(max_connections=requests)
        base = f"{served.address}/v1/"
        async with httpx.AsyncClient(base_url=base, timeout=300, headers=headers, limits=limits) as client:
            await asyncio.gather(*(ask_again(client, number) for number in range(requests)))

    task = loop.create_task(work())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    try:
        time.sleep(3)  # until all of them wait
        yield statuses
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def first_token_seconds(served: Served, samples: int) -> float:
    """Ask one question after the other from another address, and return the median time to the first token."""
    body = {
        "model": served.model(),
        "messages": [{"role": "user", "content": "Write the word apple in capitals."}],
        "max_tokens": 4,
        "stream": True,
    }
    found = []
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    headers = {"Authorization": f"Bearer {served.key()}"}
    with httpx.Client(base_url=served.address, timeout=300, transport=transport, headers=headers) as client:
        for _ in range(samples):
            begin = time.monotonic()
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == 200
                next(line for line in answer.iter_lines() if '"content":"' in line and '"content":""' not in line)
                found.append(time.monotonic() - begin)
            time.sleep(0.2)
    return statistics.median(found)


@pytest.mark.slow
def test_a_greedy_client_does_not_hold_the_server(served: Served) -> None:
    first_token_seconds(served, 2)
    alone = first_token_seconds(served, 9)
    with greedy(served, 32, greedy_body) as statuses:
        beside = first_token_seconds(served, 9)
    assert set(statuses) <= {200}
    assert beside <= TIMES * alone, f"{beside:.3f} s beside a greedy client, {alone:.3f} s alone"


def short(number: int) -> dict[str, Any]:
    return {"prompt": str(number), "max_tokens": 100, "ignore_eos": True}


@pytest.mark.slow
def test_a_user_of_the_page_is_not_taken_for_the_address_of_the_page(served: Served) -> None:
    """An address has all the requests that it may have; the page asks from the same address."""
    page = served.webui()
    body = {"model": served.model(), "messages": [{"role": "user", "content": "What comes after Thursday?"}]}
    with greedy(served, 64, short):
        asked = (
            ask(served, "completions", short(1)) for _ in range(50)
        )  # one ends now and then, and another may come
        refused = next(one for one in asked if one.status_code == 429)
        answer = page.post("/api/chat/completions", json=body)
    assert refused.json()["error"]["message"] == "a client may have 64 requests at a time; try again later"
    assert answer.raise_for_status().json()["choices"][0]["message"]["content"] == "Friday"


@pytest.mark.slow
def test_nothing_is_left_of_clients_that_leave(served: Served) -> None:
    """What vLLM computes for them ends, and what waits is dropped."""
    with greedy(served, 32, greedy_body):
        pass
    begin = time.monotonic()
    assert ask(served, "completions", {"prompt": "a"}).is_success
    assert running(served) == 0
    assert time.monotonic() - begin < 20  # all that was asked for takes minutes


def running(served: Served) -> float:
    """Ask vLLM how many answers it computes now."""
    (path,) = (served.folder / ".serve").glob("*-1.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://vllm", timeout=60) as client:
        lines = client.get("/metrics").raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that allows a second for an answer."""

    def hurry(folder: Path) -> None:
        path = folder / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert "    seconds: 600 " in text
        path.write_text(text.replace("    seconds: 600 ", "    seconds: 1 "), encoding="utf-8")

    with serving(tmp_path_factory.mktemp("hurried"), change=hurry) as checkout:
        yield checkout


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_ended(hurried: Served) -> None:
    late = "the answer took more than 1 seconds; ask for less"
    answer = ask(hurried, "completions", greedy_body(2))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, late)
    streamed = ask(hurried, "completions", greedy_body(4) | {"stream": True})
    *parts, error, done = [line for line in streamed.text.splitlines() if line]
    assert streamed.status_code == 200
    assert len(parts) > 8
    assert (json.loads(error.removeprefix("data: "))["error"]["message"], done) == (late, "data: [DONE]")
    assert ask(hurried, "completions", {"prompt": "a"}).is_success
    until(lambda: running(hurried) == 0, 30)
