"""The built-in tiny base model: a Qwen2 of about a million parameters, pretrained from scratch in about a minute.

The base stage builds it where params.yaml names no model of the hub, so that the whole pipeline runs anywhere,
offline. It has read small tasks in plain notation (stages/common/skills.py) and a little chat that greets and echoes;
it has never been asked for a task in words. Same params, same bytes.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import settings
from stages.common.vocabulary import build_tokenizer, document

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer


class TinyParams(settings.Section):
    """params.yaml, section base.tiny: the size of the tiny model and how it is pretrained."""

    seed: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    steps: int
    batch_size: int
    block_size: int
    learning_rate: float
    initializer_range: float


def batches(params: TinyParams, tokenizer: "Qwen2Tokenizer") -> "Iterator[tuple[Tensor, Tensor, Tensor]]":
    """Pack documents end to end into full blocks.

    Yields:
        Token ids, labels and positions, each (batch_size, block_size). Labels are -100 on what is given: it is
        drawn at random, so predicting it teaches nothing. Positions start at 0 in every document, by which
        transformers keeps attention inside it.
    """
    import torch

    rng = random.Random(params.seed + 1)
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    size = params.batch_size * params.block_size
    for _ in range(params.steps):
        while len(ids) < size:
            given, answer = (tokenizer(text)["input_ids"] for text in document(rng))
            ids += given + answer
            labels += [-100] * len(given) + answer
            positions += range(len(given) + len(answer))
        first = [torch.tensor(row[:size]).view(params.batch_size, -1) for row in (ids, labels, positions)]
        yield first[0], first[1], first[2]
        ids, labels, positions = ids[size:], labels[size:], positions[size:]


def pretrain(params: TinyParams, tokenizer: "Qwen2Tokenizer") -> "Qwen2ForCausalLM":
    """Train the model from scratch; the learning rate climbs for a tenth of the steps, then falls to zero."""
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(params.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    training = {"seed", "vocab_size", "steps", "batch_size", "block_size", "learning_rate"}
    config = Qwen2Config(
        **params.model_dump(exclude=training),
        vocab_size=len(tokenizer),  # fewer than allowed, once every word is a token
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config)
    # fused: the AdamW whose square root is rounded alike on every processor.
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (0.1 * params.steps), (params.steps - step) / (0.9 * params.steps)),
    )
    with tqdm(total=params.steps, desc="pretrain (cpu, float32)") as bar:
        for ids, labels, positions in batches(params, tokenizer):
            target = labels[:, 1:]
            hidden = model.model(ids, position_ids=positions, use_cache=False).last_hidden_state[:, :-1]
            loss = cross_entropy(model.lm_head(hidden[target != -100]), target[target != -100])
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model


def build_tiny(params: TinyParams, out: Path) -> None:
    """Write the model folder: tokenizer, chat template, configuration, and weights in bfloat16.

    Args:
        params: sizes and pretraining settings.
        out: an empty folder.
    """
    import torch

    tokenizer = build_tokenizer(params.seed, params.vocab_size, params.max_position_embeddings)
    model = pretrain(params, tokenizer).to(torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in sorted(out.iterdir()):
        path.chmod(0o644)
