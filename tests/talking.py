"""A model to talk to: what the tests of eval share.

The model is the built-in one with noise on its weights, so that it says different things, and a token that it likes
as its stop token, so that some of its answers end and some do not. Its answers, and the token file of these tests,
are made with nothing but transformers.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pytest

from stages import eval as stage
from stages.common import files, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 8
GENERAL = Path(__file__).parents[1] / "data" / "general" / "passages.jsonl"
Row = dict[str, Any]
Score = Callable[..., tuple[dict[str, Any], list[Any]]]


class Talker(NamedTuple):
    """A model folder, prompts, the model's greedy answer to each, and whether it ended by itself."""

    folder: Path
    prompts: list[list[dict[str, str]]]
    answers: list[str]
    stopped: list[bool]


def load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def say(folder: Path, prompts: list[list[dict[str, str]]], tools: list[Any] | None = None) -> list[list[int]]:
    """Let a model answer each prompt alone."""
    model, tokenizer = load(folder)
    said = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            prompt, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
        said.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return said


@pytest.fixture(scope="session")
def talker(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Talker:
    import torch

    folder = shutil.copytree(base, tmp_path_factory.mktemp("talker") / "model")
    model, tokenizer = load(base)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    model.save_pretrained(folder)
    questions = ["Hello!", "Sort: fig, apple", "Was it you? " * 6, "1 + 1", "", "北京 😀", "A", "Count the words."]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    prompts[3] = [{"role": "system", "content": "Be brief."}, *prompts[3]]
    # The stop token: one that about half of the answers hold, but none begins with.
    said = say(folder, prompts)
    held = Counter(token for tokens in said for token in set(tokens[1:]) - {tokens[0]})
    stop = min(held, key=lambda token: (abs(held[token] - len(said) / 2), token))
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = [stop, tokenizer.eos_token_id]
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    said = say(folder, prompts)
    stopped = [tokens[-1] in config["eos_token_id"] for tokens in said]
    kept = [tokens[:-1] if ended else tokens for tokens, ended in zip(said, stopped, strict=True)]
    return Talker(folder, prompts, tokenizer.batch_decode(kept, skip_special_tokens=True), stopped)


def decoded(talker: Talker, said: list[list[int]]) -> list[str]:
    """Give what was said up to the stop token."""
    config = json.loads((talker.folder / "generation_config.json").read_text(encoding="utf-8"))
    _, tokenizer = load(talker.folder)
    kept = [ids[:-1] if ids[-1] in config["eos_token_id"] else ids for ids in said]
    return tokenizer.batch_decode(kept, skip_special_tokens=True)


def encode(tokenizer: "PreTrainedTokenizerBase", row: Row) -> tokens.TokenRow:
    """Tokenise one row as preprocess does: of text every token is learnt."""
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
    """Score a model on rows, and give the metrics and the rows with what it said to them."""

    def score(
        model: Path,
        rows: list[Row],
        changes: dict[str, Any] | None = None,
        encoded: list[tokens.TokenRow] | None = None,
    ) -> tuple[dict[str, Any], list[Any]]:
        from transformers import AutoTokenizer

        folder = params({"eval.max_new_tokens": LENGTH} | (changes or {})).parent
        (folder / "val.jsonl").write_text(files.dump_rows(rows), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(model)
        write_tokens(folder / "val.arrow", encoded or [encode(tokenizer, row) for row in rows])
        inputs = ("--model", model, "--val", "val.jsonl", "--tokens", "val.arrow", "--general", GENERAL)
        succeed(stage.main, *inputs, "--metrics", "metrics/eval/x.json", "--answers", "metrics/eval/x.answers.jsonl")
        found = json.loads((folder / "metrics" / "eval" / "x.json").read_text(encoding="utf-8"))
        return found, files.read_rows(folder / "metrics" / "eval" / "x.answers.jsonl")

    return score


def answered(talker: Talker, answers: list[str]) -> list[Row]:
    return [
        {"messages": [*prompt, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(talker.prompts, answers, strict=True)
    ]
