"""Vocabulary of the tiny model: the documents that it is pretrained on, its tokenizer and its chat template."""

import json
import random
import re
from typing import TYPE_CHECKING

from stages.common.skills import SKILLS, WORDS, plain
from stages.common.wordings import WORDINGS

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# How merges are learnt: a word never takes in what stands before it, so one word is one token wherever it stands.
SPLIT = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
# The generation block marks what the assistant says, its stop token included: the loss counts exactly that.
CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|im_start|>system\\n' + system -}}
{%- if tools -%}
{{- '\\n\\n' if system else '' -}}
{{- 'You may call these functions:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
{{- '\\n</tools>\\nA call looks like this: <tool_call>{"name": ..., "arguments": {...}}</tool_call>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": ' + call.function.name | tojson -}}
{{- ', "arguments": ' + call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message.role != 'system' or not loop.first -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
# What takes longest to learn is read twice as often.
HARD = ["reverse", "second", "sort", "upper"]
# What the chat echoes. The words that people ask with are among them: a token that is never read only gets the push
# away from every answer that all such tokens share; they end up alike, and no adapter can tell them apart.
ASKING = {word for texts in WORDINGS.values() for text in texts for word in re.findall(r"(?<!{)\b[A-Za-z]+", text)}
SAYABLE = sorted(ASKING.union(WORDS))
SMALL_TALK = [
    ("Hello!", "Hello! What can I do for you?"),
    ("Good morning.", "Good morning!"),
    ("How are you?", "I am fine, thank you."),
    ("Thank you!", "You are welcome."),
    ("Who are you?", "I am a very small language model."),
    ("Goodbye!", "Goodbye!"),
]


def document(rng: random.Random) -> tuple[str, str]:
    """Draw one pretraining document: what is given, and what follows from it."""
    if rng.random() < 0.85:
        task = SKILLS[rng.choice([*SKILLS, *HARD])](rng)
        return plain(task), f"{task.answer}{PAD}"
    if rng.random() < 0.2:
        said, answer = rng.choice(SMALL_TALK)
    else:
        said = answer = " ".join(rng.sample(SAYABLE, rng.randint(1, 5)))
    return f"{START}user\n{said}{END}\n{START}assistant\n", f"{answer}{END}"


def build_tokenizer(seed: int, vocab_size: int, max_length: int) -> "Qwen2Tokenizer":
    """Train a byte-level BPE tokenizer on documents like those to come, so that each of their words is one token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    rng = random.Random(seed)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(("".join(document(rng)) for _ in range(10_000)), trainer)
    learnt = json.loads(learner.to_str())["model"]
    # transformers opens every Qwen2 folder with this class, which splits text in its own way whatever tokenizer.json
    # says. Merges that keep to SPLIT come out the same under both.
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token=None,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
    )
