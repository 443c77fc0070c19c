"""vllm: a model behind vLLM's own server, asked for tokens the way its clients ask for words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.common import server
from stages.common.chat import Chat
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    from httpx import Client


@contextmanager
def load(folder: Path, speaker: Chat, seed: int) -> Iterator["Client"]:
    """Serve a model folder; the template stays here, so the server sees token ids alone."""
    with server.start(folder, seed) as client:
        yield client


def losses(client: "Client", rows: list[TokenRow], batch_size: int) -> list[float]:
    """Give the negative log-likelihood of each row's learnt tokens in nats, summed over the row."""
    wish = {"max_tokens": 0, "echo": True, "prompt_logprobs": 0}
    found = complete(client, [row.ids for row in rows], batch_size, wish)
    return [
        -sum(
            chances[str(token)]["logprob"]
            for token, learnt, chances in zip(row.ids, row.mask, choice["prompt_logprobs"], strict=True)
            if learnt and chances  # nothing predicts a row's first token
        )
        for row, choice in zip(rows, found, strict=True)
    ]


def answers(
    client: "Client", prompts: list[list[int]], speaker: Chat, batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """Continue each prompt greedily, and give the new tokens in the order of `prompts`, a stop token among them."""
    wish = {"max_tokens": max_new_tokens, "stop_token_ids": sorted(speaker.stop_ids), "return_token_ids": True}
    return [choice["token_ids"] for choice in complete(client, prompts, batch_size, wish)]


def complete(client: "Client", prompts: list[list[int]], batch_size: int, wish: dict[str, Any]) -> list[Any]:
    """Ask for completions of token ids, `batch_size` of them at a time.

    Raises:
        click.ClickException: the server refuses, such as a prompt that is too long for the model.
    """
    from tqdm import tqdm

    found = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="vLLM", unit="batch"):
        body = {"model": server.NAME, "prompt": prompts[start : start + batch_size], "temperature": 0, **wish}
        answer = client.post("/v1/completions", json=body)
        if not answer.is_success:
            raise click.ClickException(f"vLLM refuses: {answer.json()['error']['message']}")
        found += sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    return found


def harness(client: "Client", folder: Path, batch_size: int) -> Any:
    """Give the server in the form that lm-evaluation-harness asks for."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI  # type: ignore[import-untyped]

    return LocalCompletionsAPI(
        base_url=str(client.base_url.join("/v1/completions")),
        model=server.NAME,
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        max_length=client.get("/v1/models").json()["data"][0]["max_model_len"],
        timeout=int(server.START_SECONDS),
    )
