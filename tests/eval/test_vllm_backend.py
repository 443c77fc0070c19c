"""The vLLM backend: how it reads the server's answers, and that these are those of transformers.

The comparison needs vLLM in an environment of its own (VLLM_VENV, else .serve/vllm), and takes minutes.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from needs import has_avx512, missing
from noisy_model import GENERAL

from stages.common import files
from stages.common.tokens import TokenRow
from stages.eval import __main__ as stage
from stages.eval import vllm_backend

ROOT = Path(__file__).parents[2]
VLLM = Path(os.environ.get("VLLM_VENV", ROOT / ".serve" / "vllm")) / "bin" / "vllm"


def client(reply: Callable[[Any], httpx.Response]) -> httpx.Client:
    """A client whose requests `reply` answers."""
    transport = httpx.MockTransport(lambda request: reply(json.loads(request.content)))
    return httpx.Client(transport=transport, base_url="http://127.0.0.1")


def test_choices_come_back_in_the_order_of_the_prompts() -> None:
    def reply(body: Any) -> httpx.Response:
        choices = [{"index": index, "token_ids": ids} for index, ids in enumerate(body["prompt"])]
        return httpx.Response(200, json={"choices": choices[::-1]})

    with client(reply) as api:
        choices = vllm_backend.complete(api, [[1], [2], [3], [4], [5]], 2, {})
    assert [choice["token_ids"] for choice in choices] == [[1], [2], [3], [4], [5]]


def test_only_tokens_in_the_loss_count() -> None:
    logprobs = [None, {"8": {"logprob": -0.5}}, {"9": {"logprob": -0.25}}]

    def reply(body: Any) -> httpx.Response:
        return httpx.Response(200, json={"choices": [{"index": 0, "prompt_logprobs": logprobs}]})

    with client(reply) as api:
        losses = [vllm_backend.losses(api, [TokenRow([7, 8, 9], mask)], 1)[0] for mask in ([1, 1, 1], [0, 0, 1])]
    assert losses == [0.75, 0.25]


def test_a_refused_request_is_quoted() -> None:
    with (
        client(lambda body: httpx.Response(400, json={"error": {"message": "too long"}})) as api,
        pytest.raises(click.ClickException, match=r"^vLLM refuses the request: too long$"),
    ):
        vllm_backend.complete(api, [[1]], 1, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merged", "awq"])
def test_vllm_gives_the_answers_and_losses_of_transformers(
    params: Callable[..., Path],
    succeed: Callable[..., str],
    awq: Path,
    prepared: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not VLLM.exists():
        missing("serving")
    if name == "awq" and not has_avx512():
        missing("avx512")
    monkeypatch.setenv("VLLM_VENV", str(VLLM.parents[1]))
    inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL)
    found: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for backend in ("hf", "vllm"):
        folder = params({"eval.backend": backend, "eval.tasks": [str(ROOT / "data/tasks/plain.yaml")]}).parent
        (folder / "data").mkdir(exist_ok=True)
        if not (folder / "data" / "tasks").exists():
            (folder / "data" / "tasks").symlink_to(ROOT / "data" / "tasks")
        succeed(stage.main, "--model", awq.with_name(name), *inputs, "--metrics", "x.json", "--answers", "x.jsonl")
        found[backend] = json.loads((folder / "x.json").read_text()), files.read_rows(folder / "x.jsonl")
    (hf, hf_rows), (vllm, vllm_rows) = found["hf"], found["vllm"]
    assert vllm["answer_tokens"] == hf["answer_tokens"]
    for loss in ("loss", "general_loss"):
        assert vllm[loss] == pytest.approx(hf[loss], rel=0.02)  # bfloat16 against float32
    assert vllm["tasks"]["plain"]["acc"] == pytest.approx(hf["tasks"]["plain"]["acc"], abs=0.1)
    same = sum(one["answer"] == other["answer"] for one, other in zip(vllm_rows, hf_rows, strict=True))
    assert same >= 0.9 * len(hf_rows)
