"""Backend `vllm`: the model runs in vLLM's own server, which gets and returns token ids.

Starts the server, and asks it for the loss of rows and for answers. transformers_backend.py has the same functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.common.chat import ChatTokenizer
from stages.common.progress import track
from stages.common.tokens import TokenRow
from stages.eval import vllm_server

if TYPE_CHECKING:
    from httpx import Client


@contextmanager
def load(folder: Path, chat_tokenizer: ChatTokenizer, seed: int) -> Iterator["Client"]:
    """Serve a model folder. The server gets token ids only, so it applies no template of its own."""
    with vllm_server.start(folder, seed) as client:
        yield client


def losses(client: "Client", rows: list[TokenRow], batch_size: int) -> list[float]:
    """Compute the negative log-likelihood of each row in nats, summed over its tokens in the loss."""
    options = {"max_tokens": 0, "echo": True, "prompt_logprobs": 0}
    choices = complete(client, [row.ids for row in rows], batch_size, options)
    return [
        -sum(
            logprobs[str(token)]["logprob"]
            for token, in_loss, logprobs in zip(row.ids, row.mask, choice["prompt_logprobs"], strict=True)
            if in_loss and logprobs  # nothing predicts a row's first token
        )
        for row, choice in zip(rows, choices, strict=True)
    ]


def generate(
    client: "Client", prompts: list[list[int]], chat_tokenizer: ChatTokenizer, batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """Continue each prompt greedily.

    Returns:
        The new tokens in the order of `prompts`, with the stop token where there is one.
    """
    stop_ids = sorted(chat_tokenizer.stop_ids)
    options = {"max_tokens": max_new_tokens, "stop_token_ids": stop_ids, "return_token_ids": True}
    return [choice["token_ids"] for choice in complete(client, prompts, batch_size, options)]


def complete(client: "Client", prompts: list[list[int]], batch_size: int, options: dict[str, Any]) -> list[Any]:
    """Request completions of token ids, `batch_size` prompts per request.

    Args:
        client: of the running server.
        prompts: token ids.
        batch_size: prompts per request.
        options: more keys of the request.

    Raises:
        click.ClickException: the server refuses a request, such as one that is too long for the model.
    """
    choices = []
    for start in track(range(0, len(prompts), batch_size), "vLLM", "batch"):
        group = prompts[start : start + batch_size]
        body = {"model": vllm_server.NAME, "prompt": group, "temperature": 0, **options}
        response = client.post("/v1/completions", json=body)
        if not response.is_success:
            raise click.ClickException(f"vLLM refuses the request: {response.json()['error']['message']}")
        choices += sorted(response.json()["choices"], key=lambda choice: choice["index"])
    return choices


def lm_eval_model(client: "Client", folder: Path, batch_size: int) -> Any:
    """Wrap the server for lm-evaluation-harness."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=str(client.base_url.join("/v1/completions")),
        model=vllm_server.NAME,
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        max_length=client.get("/v1/models").json()["data"][0]["max_model_len"],
        timeout=int(vllm_server.START_SECONDS),
    )
