"""hf: a model in this process, loaded with transformers the way its users load it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.common import batches, device
from stages.common.chat import Chat
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def load(folder: Path, speaker: Chat, seed: int) -> Iterator["PreTrainedModel"]:
    """Load a model folder, to be greedy whatever its generation_config.json asks for: see docs/eval.md."""
    import transformers

    transformers.set_seed(seed)
    place = device.choose()
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=place.dtype).to(place.name).eval()
    network.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=sorted(speaker.stop_ids), pad_token_id=speaker.pad_id
    )
    yield network


def losses(network: "PreTrainedModel", rows: list[TokenRow], batch_size: int) -> list[float]:
    """Give the negative log-likelihood of each row's learnt tokens in nats, summed over the row."""
    import torch

    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids), reverse=True)
    found: list[float] = []
    with torch.inference_mode():
        for batch in batches.padded([rows[index] for index in order], batch_size):
            logits = batches.answer_logits(network, batch)
            target = batches.answer_tokens(batch).to(logits.device)
            nats = torch.nn.functional.cross_entropy(logits, target, reduction="none").double()
            found += [part.sum().item() for part in nats.split(batch.mask[:, 1:].sum(1).tolist())]
    return [loss for _, loss in sorted(zip(order, found, strict=True))]


def answers(
    network: "PreTrainedModel", prompts: list[list[int]], speaker: Chat, batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """Continue each prompt greedily, shortest first, so that prompts of like length share a batch.

    Returns:
        The new tokens in the order of `prompts`; what follows a stop token is padding.
    """
    import torch
    from tqdm import tqdm

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    said: list[list[int]] = [[]] * len(prompts)
    for start in tqdm(range(0, len(order), batch_size), desc="answers", unit="batch"):
        group = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in group)
        gaps = [width - len(prompts[index]) for index in group]
        ids = [[speaker.pad_id] * gap + prompts[index] for index, gap in zip(group, gaps, strict=True)]
        attention = [[0] * gap + [1] * (width - gap) for gap in gaps]
        with torch.inference_mode():
            output = network.generate(
                input_ids=torch.tensor(ids).to(network.device),
                attention_mask=torch.tensor(attention).to(network.device),
                max_new_tokens=max_new_tokens,
            )
        for index, row in zip(group, output[:, width:].tolist(), strict=True):
            said[index] = row
    return said


def harness(network: "PreTrainedModel", folder: Path, batch_size: int) -> Any:
    """Give the model in the form that lm-evaluation-harness asks for."""
    import transformers
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size)
