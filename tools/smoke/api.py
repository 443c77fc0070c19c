"""API: ask a served model through the OpenAI client library, as users do, and check the API itself."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common.chat import Row
from tools.common.endpoints import Endpoint

if TYPE_CHECKING:
    from openai import OpenAI

PARALLEL = 32
TIMEOUT = 600.0


class Verdict(NamedTuple):
    """The result of one check: whether it passed, a sentence for the terminal, figures for metrics/serve.json."""

    name: str
    passed: bool
    text: str
    figures: dict[str, float]


class Reply(NamedTuple):
    """One answer: text, token ids, the ids of its prompt, why it ended, seconds to the first token and in all.

    `logprobs` has the log-probability of each token, in nats.
    """

    text: str
    ids: list[int]
    prompt_ids: list[int]
    finish_reason: str
    first_seconds: float
    seconds: float
    logprobs: list[float]


def connect(one: Endpoint, key: str) -> "OpenAI":
    """Return a client without retries of its own, so that every failure shows."""
    from openai import OpenAI

    return OpenAI(base_url=one.address, api_key=key, max_retries=0, timeout=TIMEOUT)


def ask(api: "OpenAI", name: str, row: Row, limit: int, **more: Any) -> Reply:
    """Ask for the next message of a conversation, streamed and greedy.

    Args:
        api: the client.
        name: the served model.
        row: `messages` that end with a question, and maybe `tools`.
        limit: tokens of the answer, at most.
        more: further fields of the request.
    """
    begin = first = time.monotonic()
    text: list[str] = []
    ids: list[int] = []
    prompt_ids: list[int] = []
    logprobs: list[float] = []
    finish_reason = ""
    tools = {"tools": row["tools"], "tool_choice": "none"} if row.get("tools") else {}
    extra = {"return_token_ids": True, **more}
    messages = row["messages"]
    for chunk in api.chat.completions.create(
        model=name,
        messages=messages,
        temperature=0,
        max_tokens=limit,
        logprobs=True,
        stream=True,
        extra_body=extra,
        **tools,
    ):
        prompt_ids = getattr(chunk, "prompt_token_ids", None) or prompt_ids
        for choice in chunk.choices:
            if choice.delta.content and not any(text):
                first = time.monotonic()
            text.append(choice.delta.content or "")
            ids += getattr(choice, "token_ids", None) or []
            logprobs += [entry.logprob for entry in (choice.logprobs and choice.logprobs.content) or []]
            finish_reason = choice.finish_reason or finish_reason
    return Reply("".join(text), ids, prompt_ids, finish_reason, first - begin, time.monotonic() - begin, logprobs)


def check_access(one: Endpoint, api: "OpenAI") -> Iterator[Verdict]:
    """Check health, the list of models, and that requests without a key or with a wrong one are refused."""
    import httpx
    import openai

    health = httpx.get(f"{one.address.removesuffix('/v1')}/health", timeout=TIMEOUT)
    yield Verdict("health", health.is_success, f"status {health.status_code}", {})
    names = [model.id for model in api.models.list()]
    yield Verdict("name", sorted(names) == sorted(one.names), ", ".join(names), {})
    question = {"model": one.name, "messages": [{"role": "user", "content": "Hello"}]}
    keyless = httpx.post(f"{one.address}/chat/completions", json=question, timeout=TIMEOUT)
    yield Verdict("no key", keyless.status_code == 401, f"status {keyless.status_code}", {})
    try:
        connect(one, "wrong").chat.completions.create(**question)
        status = 200
    except openai.APIStatusError as error:
        status = error.status_code
    yield Verdict("wrong key", status == 401, f"status {status}", {})


def check_chat(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Iterator[Verdict]:
    """Check a chat without and with streaming, and many chats at the same time."""
    messages = rows[0]["messages"]
    whole = api.chat.completions.create(model=one.name, messages=messages, temperature=0, max_tokens=limit)
    choice = whole.choices[0]
    answer = (choice.message.content or "").strip()
    yield Verdict("chat", bool(answer), repr(answer), {})
    streamed = ask(api, one.name, rows[0], limit)
    same = streamed.text.strip() == answer
    yield Verdict("streaming", same, f"{len(streamed.ids)} tokens, {'the same' if same else 'another'} answer", {})
    yield _check_parallel(one, api, rows, limit)


def _check_parallel(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Verdict:
    """Ask 32 questions at once, and measure throughput."""
    asked = [rows[number % len(rows)] for number in range(PARALLEL)]
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
    ended = sum(bool(reply.finish_reason) for reply in replies)
    return Verdict("parallel", ended == PARALLEL, f"{ended} of {PARALLEL} answered in {seconds:.1f} s", figures)


def check_latency(one: Endpoint, api: "OpenAI", rows: list[Row], limit: int) -> Verdict:
    """Ask one question after the other, and measure latency."""
    replies = [ask(api, one.name, row, limit) for row in rows[:20]]
    figures = {
        "alone_first_token_seconds_median": statistics.median(reply.first_seconds for reply in replies),
        "alone_seconds_median": statistics.median(reply.seconds for reply in replies),
    }
    ended = sum(bool(reply.finish_reason) for reply in replies)
    text = f"{ended} of {len(replies)} answered, one after the other, in {figures['alone_seconds_median']:.3f} s each"
    return Verdict("latency", ended == len(replies), text, figures)
