"""Tiny model: a Qwen2 of about a million parameters, pretrained from scratch in about a minute.

The base stage builds it when params.yaml names no model of the hub, so that the whole pipeline runs offline. It is
pretrained on small tasks in plain notation (tiny_tasks.py) and on a little chat: greetings, and words that the user
writes and the assistant repeats. No task is asked in words: that is left to fine-tuning. Same params, same bytes.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.base.params import TinyParams
from stages.base.tiny_tasks import SKILLS, WORDINGS, WORDS, plain
from stages.base.tiny_tokenizer import END, PAD, START, train_tokenizer
from stages.common.progress import track

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

# Skills that need the most steps are drawn twice as often.
HARD = ["reverse", "second", "sort", "upper"]
# The words of the wordings are repeated in chat, too. A token that never occurs in pretraining only gets the gradient
# that pushes it away from every answer; all such tokens end up alike, and no adapter can tell them apart.
WORDING_WORDS = {
    word for texts in WORDINGS.values() for text in texts for word in re.findall(r"(?<!{)\b[A-Za-z]+", text)
}
CHAT_WORDS = sorted(WORDING_WORDS.union(WORDS))
SMALL_TALK = [
    ("Hello!", "Hello! What can I do for you?"),
    ("Good morning.", "Good morning!"),
    ("How are you?", "I am fine, thank you."),
    ("Thank you!", "You are welcome."),
    ("Who are you?", "I am a very small language model."),
    ("Goodbye!", "Goodbye!"),
]
TOKENIZER_DOCUMENTS = 10_000


def build_tiny(params: TinyParams, out: Path) -> None:
    """Write the model folder: tokenizer, chat template, configuration, and weights in bfloat16.

    Args:
        params: sizes and pretraining settings.
        out: an empty folder.
    """
    import torch

    rng = random.Random(params.seed)
    texts = ("".join(draw_document(rng)) for _ in range(TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(texts, params.vocab_size, params.max_position_embeddings)
    model = pretrain(params, tokenizer).to(torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in sorted(out.iterdir()):
        path.chmod(0o644)


def pretrain(params: TinyParams, tokenizer: "Qwen2Tokenizer") -> "Qwen2ForCausalLM":
    """Train the model from scratch: the learning rate rises for a tenth of the steps, then falls to zero."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(params.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # only finds bugs, and costs time
    training = {"seed", "vocab_size", "steps", "batch_size", "block_size", "learning_rate"}
    config = Qwen2Config(
        **params.model_dump(exclude=training),
        vocab_size=len(tokenizer),  # below params.vocab_size once every word is one token
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config)
    # The fused AdamW rounds its square root in the same way on every processor.
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (0.1 * params.steps), (params.steps - step) / (0.9 * params.steps)),
    )
    with track(None, "pretrain (cpu, float32)", "step", params.steps) as bar:
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


def batches(params: TinyParams, tokenizer: "Qwen2Tokenizer") -> "Iterator[tuple[Tensor, Tensor, Tensor]]":
    """Pack documents end to end into full blocks, one batch per step.

    Yields:
        Token ids, labels and positions, each of shape (batch_size, block_size). Labels are -100 on the prompt: it is
        drawn at random, so there is nothing to learn from predicting it. Positions start at 0 in every document:
        from them transformers knows where a document ends, and keeps attention inside it.
    """
    import torch

    rng = random.Random(params.seed + 1)
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    size = params.batch_size * params.block_size
    for _ in range(params.steps):
        while len(ids) < size:
            prompt, completion = (tokenizer(text)["input_ids"] for text in draw_document(rng))
            ids += prompt + completion
            labels += [-100] * len(prompt) + completion
            positions += range(len(prompt) + len(completion))
        first = [torch.tensor(row[:size]).view(params.batch_size, -1) for row in (ids, labels, positions)]
        yield first[0], first[1], first[2]
        ids, labels, positions = ids[size:], labels[size:], positions[size:]


def draw_document(rng: random.Random) -> tuple[str, str]:
    """Draw one pretraining document: prompt and completion."""
    if rng.random() < 0.85:
        task = SKILLS[rng.choice([*SKILLS, *HARD])](rng)
        return plain(task), f"{task.answer}{PAD}"
    if rng.random() < 0.2:
        question, answer = rng.choice(SMALL_TALK)
    else:
        question = answer = " ".join(rng.sample(CHAT_WORDS, rng.randint(1, 5)))
    return f"{START}user\n{question}{END}\n{START}assistant\n", f"{answer}{END}"
