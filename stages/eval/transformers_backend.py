"""Backend `hf`: the model runs in this process, loaded with transformers.

Loads a model folder, computes the loss of rows, and generates answers. vllm_backend.py has the same functions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.common import agreement, batches, device
from stages.common.chat import ChatTokenizer
from stages.common.progress import track
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def load(
    folder: Path, chat_tokenizer: ChatTokenizer, seed: int, adapter: Path | None = None
) -> Iterator["PreTrainedModel"]:
    """Load a model folder; an `adapter` is applied at run time.

    It generates greedily, whatever its generation_config.json sets: see docs/eval.md.
    """
    import transformers

    transformers.set_seed(seed)
    chosen = device.choose()
    click.echo(f"device: {chosen.name}, {chosen.dtype}: {chosen.reason}")
    model = agreement.load(folder, chosen, adapter)
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=sorted(chat_tokenizer.stop_ids), pad_token_id=chat_tokenizer.pad_id
    )
    yield model


def losses(model: "PreTrainedModel", rows: list[TokenRow], batch_size: int) -> list[float]:
    """Compute the negative log-likelihood of each row in nats, summed over its tokens in the loss."""
    import torch

    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids), reverse=True)
    summed: list[float] = []
    with torch.inference_mode():
        padded = batches.padded([rows[index] for index in order], batch_size)
        for batch in track(padded, "loss", "batch", math.ceil(len(rows) / batch_size)):
            logits = batches.answer_logits(model, batch)
            target = batches.answer_tokens(batch).to(logits.device)
            nats = torch.nn.functional.cross_entropy(logits, target, reduction="none").double()
            summed += [part.sum().item() for part in nats.split(batch.mask[:, 1:].sum(1).tolist())]
    return [loss for _, loss in sorted(zip(order, summed, strict=True))]


def generate(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    chat_tokenizer: ChatTokenizer,
    batch_size: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue each prompt greedily. Prompts of similar length share a batch, the shortest first.

    Returns:
        The new tokens in the order of `prompts`; what follows a stop token is padding.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    completions: list[list[int]] = [[]] * len(prompts)
    for start in track(range(0, len(order), batch_size), "answers", "batch"):
        group = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in group)
        gaps = [width - len(prompts[index]) for index in group]
        ids = [[chat_tokenizer.pad_id] * gap + prompts[index] for index, gap in zip(group, gaps, strict=True)]
        attention = [[0] * gap + [1] * (width - gap) for gap in gaps]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids).to(model.device),
                attention_mask=torch.tensor(attention).to(model.device),
                max_new_tokens=max_new_tokens,
            )
        for index, row in zip(group, output[:, width:].tolist(), strict=True):
            completions[index] = row
    return completions


def lm_eval_model(model: "PreTrainedModel", folder: Path, batch_size: int) -> Any:
    """Wrap the model for lm-evaluation-harness."""
    import transformers
    from lm_eval.models.huggingface import HFLM

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
