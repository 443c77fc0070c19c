"""Trial: what is asked of a served model from outside, by the OpenAI client library, as its users do."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common.chat import Row
from tools.serving.endpoint import Endpoint

if TYPE_CHECKING:
    from openai import OpenAI

PARALLEL = 32
TIMEOUT = 600.0


class Verdict(NamedTuple):
    """What a check found: whether it passed, in words, and in figures."""

    name: str
    passed: bool
    words: str
    figures: dict[str, float]


class Reply(NamedTuple):
    """What the model said: words, tokens, why it ended, and how long the first token and all took."""

    text: str
    ids: list[int]
    prompt_ids: list[int]
    reason: str
    first_seconds: float
    seconds: float


def client(one: Endpoint, key: str) -> "OpenAI":
    """Give the client library, without its own retries: a failure shall be seen."""
    from openai import OpenAI

    return OpenAI(base_url=one.address, api_key=key, max_retries=0, timeout=TIMEOUT)


def ask(api: "OpenAI", name: str, row: Row, limit: int, **more: Any) -> Reply:
    """Ask a conversation's last question, streamed, greedily."""
    begin = first = time.monotonic()
    text: list[str] = []
    ids: list[int] = []
    prompt_ids: list[int] = []
    reason = ""
    tools = {"tools": row["tools"], "tool_choice": "none"} if row.get("tools") else {}
    extra = {"return_token_ids": True, **more}
    messages = row["messages"]
    for chunk in api.chat.completions.create(
        model=name, messages=messages, temperature=0, max_tokens=limit, stream=True, extra_body=extra, **tools
    ):
        prompt_ids = getattr(chunk, "prompt_token_ids", None) or prompt_ids
        for choice in chunk.choices:
            if choice.delta.content and not any(text):
                first = time.monotonic()
            text.append(choice.delta.content or "")
            ids += getattr(choice, "token_ids", None) or []
            reason = choice.finish_reason or reason
    return Reply("".join(text), ids, prompt_ids, reason, first - begin, time.monotonic() - begin)


def doors(one: Endpoint, api: "OpenAI") -> Iterator[Verdict]:
    """Health, the list of models, and refusal without and with a wrong key."""
    import httpx
    import openai

    health = httpx.get(f"{one.address.removesuffix('/v1')}/health", timeout=TIMEOUT)
    yield Verdict("health", health.is_success, f"status {health.status_code}", {})
    names = [model.id for model in api.models.list()]
    yield Verdict("name", names == [one.name, *one.adapters], ", ".join(names), {})
    question = {"model": one.name, "messages": [{"role": "user", "content": "Hello"}]}
    bare = httpx.post(f"{one.address}/chat/completions", json=question, timeout=TIMEOUT)
    yield Verdict("no key", bare.status_code == 401, f"status {bare.status_code}", {})
    try:
        client(one, "wrong").chat.completions.create(**question)
        status = 200
    except openai.APIStatusError as error:
        status = error.status_code
    yield Verdict("wrong key", status == 401, f"status {status}", {})


def talk(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Iterator[Verdict]:
    """A chat, at once and streamed, its end, and many at the same time."""
    messages = rows[0]["messages"]
    whole = api.chat.completions.create(model=one.name, messages=messages, temperature=0, max_tokens=limit).choices[0]
    said = (whole.message.content or "").strip()
    yield Verdict("chat", bool(said), repr(said), {})
    stops = whole.finish_reason == "stop"
    yield Verdict("stop", stops, f"finish_reason is {whole.finish_reason}", {})
    streamed = ask(api, one.name, rows[0], limit)
    yield Verdict("streaming", streamed.text.strip() == said, f"{len(streamed.ids)} tokens, the same answer", {})
    yield _parallel(one, api, rows, limit)


def _parallel(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Verdict:
    """Ask 32 questions at once, and time it."""
    asked = [rows[place % len(rows)] for place in range(PARALLEL)]
    begin = time.monotonic()
    with ThreadPoolExecutor(PARALLEL) as threads:
        replies = list(threads.map(lambda row: ask(api, one.name, row, limit), asked))
    seconds = time.monotonic() - begin
    figures = {
        "requests_per_second": PARALLEL / seconds,
        "tokens_per_second": sum(len(reply.ids) for reply in replies) / seconds,
        "first_token_seconds_median": statistics.median(reply.first_seconds for reply in replies),
        "seconds_median": statistics.median(reply.seconds for reply in replies),
        "seconds_max": max(reply.seconds for reply in replies),
    }
    ended = sum(bool(reply.reason) for reply in replies)
    return Verdict("parallel", ended == PARALLEL, f"{ended} of {PARALLEL} answered in {seconds:.1f} s", figures)


def latency(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Verdict:
    """Ask one after the other, and time it."""
    replies = [ask(api, one.name, row, limit) for row in rows[:20]]
    figures = {
        "alone_first_token_seconds_median": statistics.median(reply.first_seconds for reply in replies),
        "alone_seconds_median": statistics.median(reply.seconds for reply in replies),
    }
    ended = sum(bool(reply.reason) for reply in replies)
    words = (
        f"{ended} of {len(replies)} answered, one after the other, in {figures['alone_seconds_median']:.3f} s each"
    )
    return Verdict("latency", ended == len(replies), words, figures)
