"""Tiny model: same params give the same bytes, and its sizes suit AWQ and vLLM."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from stage_runs import DEFAULTS

from stages.base import __main__ as stage
from stages.base.params import BaseParams
from stages.base.tiny_model import draw_document
from stages.base.tiny_tokenizer import END, PAD, START
from stages.common import files
from stages.common.params import load_params, read_yaml


@pytest.mark.slow
def test_two_builds_have_the_same_bytes(params: Callable[..., Path], succeed: Callable[..., str], base: Path) -> None:
    folder = params().parent
    succeed(stage.main)
    assert files.hashes(folder / "models" / "base") == files.hashes(base)


@pytest.mark.slow
def test_another_seed_builds_another_model(
    params: Callable[..., Path], succeed: Callable[..., str], base: Path
) -> None:
    folder = params({"base.tiny.seed": 8}).parent
    succeed(stage.main)
    assert files.hashes(folder / "models" / "base")["model.safetensors"] != files.hashes(base)["model.safetensors"]


def test_the_default_sizes_suit_awq_and_vllm() -> None:
    from accelerate import init_empty_weights
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tiny = load_params(DEFAULTS, "base", BaseParams).tiny
    sizes = {name: value for name, value in tiny.model_dump().items() if hasattr(Qwen2Config(), name)}
    with init_empty_weights():
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    assert 1_000_000 <= sum(weight.numel() for weight in model.parameters()) <= 5_000_000
    assert tiny.hidden_size % 128 == tiny.intermediate_size % 128 == 0
    assert tiny.hidden_size // tiny.num_attention_heads in (32, 64, 80, 96, 112, 128)
    assert read_yaml(DEFAULTS)["preprocess"]["max_length"] <= tiny.max_position_embeddings


def test_a_document_is_a_task_in_plain_notation_or_a_short_chat() -> None:
    rng = random.Random(7)
    documents = [draw_document(rng) for _ in range(500)]
    chats = [document for document in documents if document[0].startswith(f"{START}user\n")]
    assert 50 <= len(chats) <= 100
    assert all(completion.endswith(END) for _, completion in chats)
    tasks = [document for document in documents if document not in chats]
    assert all(prompt.endswith("\n") and completion.endswith(PAD) for prompt, completion in tasks)
