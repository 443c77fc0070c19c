"""A model for the tests of eval: the built-in one with noise on its weights, so that its answers differ.

Its stop token is one that about half of its answers contain, so some answers stop and some do not. What the tests
expect (its answers, and the tokens of the rows) is made with transformers alone.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pytest

from stages.common import files, tokens
from stages.common.chat import Row
from stages.common.scores import AnswerRow
from stages.eval import __main__ as stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 8
GENERAL = Path(__file__).parents[2] / "data" / "general" / "passages.jsonl"
Score = Callable[..., tuple[dict[str, Any], list[AnswerRow]]]


class NoisyModel(NamedTuple):
    """A model folder, prompts, the greedy answer to each prompt, and whether it stopped."""

    folder: Path
    prompts: list[list[dict[str, str]]]
    answers: list[str]
    stopped: list[bool]


def load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def generate_alone(
    folder: Path, prompts: list[list[dict[str, str]]], tools: list[Any] | None = None
) -> list[list[int]]:
    """Generate the answer to each prompt without a batch, as the folder's generation_config.json says."""
    model, tokenizer = load(folder)
    completions = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            prompt, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        completions.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return completions


def decode(folder: Path, completions: list[list[int]]) -> list[str]:
    """Decode each completion up to its stop token."""
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    _, tokenizer = load(folder)
    kept = [ids[:-1] if ids[-1] in config["eos_token_id"] else ids for ids in completions]
    return tokenizer.batch_decode(kept, skip_special_tokens=True)


@pytest.fixture(scope="session")
def noisy_model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> NoisyModel:
    import torch

    folder = shutil.copytree(base, tmp_path_factory.mktemp("noisy") / "model")
    model, tokenizer = load(base)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    model.save_pretrained(folder)
    questions = ["Hello!", "Sort: fig, apple", "Was it you? " * 6, "1 + 1", "", "北京 😀", "A", "Count the words."]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    prompts[3] = [{"role": "system", "content": "Be brief."}, *prompts[3]]
    # The stop token: one that about half of the answers contain, but none starts with.
    completions = generate_alone(folder, prompts)
    counts = Counter(token for ids in completions for token in set(ids[1:]) - {ids[0]})
    stop = min(counts, key=lambda token: (abs(counts[token] - len(completions) / 2), token))
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = [stop, tokenizer.eos_token_id]
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    completions = generate_alone(folder, prompts)
    stopped = [ids[-1] in config["eos_token_id"] for ids in completions]
    return NoisyModel(folder, prompts, decode(folder, completions), stopped)


def encode(tokenizer: "PreTrainedTokenizerBase", row: Row) -> tokens.TokenRow:
    """Encode one row as preprocess does: every token of plain text is in the loss."""
    if "text" in row:
        ids = tokenizer(row["text"])["input_ids"]
        return tokens.TokenRow(ids, [1] * len(ids))
    encoded = tokenizer.apply_chat_template(
        row["messages"], tools=row.get("tools"), return_dict=True, return_assistant_tokens_mask=True
    )
    return tokens.TokenRow(encoded["input_ids"], encoded["assistant_masks"])


def write_tokens(path: Path, rows: list[tokens.TokenRow]) -> None:
    columns = [[row.ids for row in rows], [row.mask for row in rows]]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=tokens.SCHEMA))


@pytest.fixture
def score(params: Callable[..., Path], succeed: Callable[..., str]) -> Score:
    """Run eval on a model and rows, and return the metrics and the rows of answers."""

    def score(
        model: Path,
        rows: list[Row],
        changes: dict[str, Any] | None = None,
        encoded: list[tokens.TokenRow] | None = None,
    ) -> tuple[dict[str, Any], list[AnswerRow]]:
        from transformers import AutoTokenizer

        folder = params({"eval.max_new_tokens": MAX_NEW_TOKENS} | (changes or {})).parent
        (folder / "val.jsonl").write_text(files.dump_rows(rows), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(model)
        write_tokens(folder / "val.arrow", encoded or [encode(tokenizer, row) for row in rows])
        inputs = ("--model", model, "--val", "val.jsonl", "--tokens", "val.arrow", "--general", GENERAL)
        succeed(stage.main, *inputs, "--metrics", "metrics/eval/x.json", "--answers", "metrics/eval/x.answers.jsonl")
        total = json.loads((folder / "metrics" / "eval" / "x.json").read_text(encoding="utf-8"))
        return total, files.read_rows(folder / "metrics" / "eval" / "x.answers.jsonl")

    return score


def with_answers(prompts: list[list[dict[str, str]]], answers: list[str]) -> list[Row]:
    """Make rows of prompts and reference answers."""
    return [
        {"messages": [*prompt, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
