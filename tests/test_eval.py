"""Eval: scores of batches equal those of rows taken one by one with nothing but transformers.

The model of these tests is the built-in one with noise on its weights, so that it says different things, and a token
that it likes as its stop token, so that some of its answers end and some do not.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stages import eval as stage
from stages.common import files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 8


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


def say(folder: Path, prompts: list[list[dict[str, str]]]) -> list[list[int]]:
    """Let a model answer each prompt alone."""
    model, tokenizer = load(folder)
    said = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
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


@pytest.fixture
def score(
    params: Callable[..., Path], succeed: Callable[..., str]
) -> Callable[..., tuple[dict[str, Any], list[Any]]]:
    """Score a model on rows, and give the metrics and the sample answers."""

    def score(
        model: Path, rows: list[list[dict[str, str]]], changes: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[Any]]:
        folder = params({"eval.max_new_tokens": LENGTH, "eval.sample_answers": 100} | (changes or {})).parent
        text = files.dump_rows([{"messages": messages} for messages in rows])
        (folder / "val.jsonl").write_text(text, encoding="utf-8")
        paths = (
            "--val",
            "val.jsonl",
            "--metrics",
            "metrics/eval/x.json",
            "--answers",
            "metrics/eval/x.answers.jsonl",
        )
        succeed(stage.main, "--model", model, *paths)
        found = json.loads((folder / "metrics" / "eval" / "x.json").read_text(encoding="utf-8"))
        return found, files.read_rows(folder / "metrics" / "eval" / "x.answers.jsonl")

    return score


def answered(talker: Talker, answers: list[str]) -> list[list[dict[str, str]]]:
    return [
        [*prompt, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(talker.prompts, answers, strict=True)
    ]


def test_the_models_of_these_tests_say_different_things(talker: Talker) -> None:
    assert len(set(talker.answers)) > 4
    assert 0 < sum(talker.stopped) < len(talker.stopped)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_equal_those_of_rows_taken_one_by_one(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]], batch_size: int
) -> None:
    rows = answered(talker, ["reference"] * 8)
    found, samples = score(talker.folder, rows, {"eval.batch_size": batch_size})
    assert [sample["answer"] for sample in samples] == talker.answers
    assert [sample["question"] for sample in samples] == talker.prompts
    assert {sample["reference"] for sample in samples} == {"reference"}
    assert found["stop_rate"] == round(sum(talker.stopped) / 8, 6)
    assert found["exact_match"] == 0


def test_a_match_is_the_whole_answer_but_for_blanks_around_it(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    references = [f" {answer}\n" for answer in talker.answers]
    for wrong in (0, 3, 5):
        references[wrong] = talker.answers[wrong] + "!"
    found, samples = score(talker.folder, answered(talker, references))
    assert [sample["match"] for sample in samples] == [index not in (0, 3, 5) for index in range(8)]
    assert found["exact_match"] == 0.625
    assert found["rows"] == 8


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_perplexity_is_over_the_answers_tokens_of_all_rows(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]], batch_size: int
) -> None:
    import torch

    rows = answered(talker, ["yes", "apple, fig", "No. " * 9, "2", "", "😀", "Be", "3"])
    rows[0] = [*rows[0], {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Really."}]
    model, tokenizer = load(talker.folder)
    losses: list[float] = []
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logs = model(encoded["input_ids"]).logits[0].double().log_softmax(-1)
        mask = torch.as_tensor(encoded["assistant_masks"]).reshape(-1).tolist()
        ids = encoded["input_ids"][0].tolist()
        losses += [-logs[place - 1, ids[place]].item() for place in range(len(ids)) if mask[place]]
    found, _ = score(talker.folder, rows, {"eval.batch_size": batch_size})
    assert found["answer_tokens"] == len(losses)
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), abs=2e-6)
    assert found["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_the_params_say_how_many_rows_and_answers(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    rows = answered(talker, ["reference"] * 8)
    found, samples = score(talker.folder, rows, {"eval.rows": 5, "eval.sample_answers": 2})
    assert found["rows"] == 5
    assert [sample["answer"] for sample in samples] == talker.answers[:2]


def test_scoring_again_gives_the_same_bytes(
    params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, scored: Path
) -> None:
    folder = params().parent
    val = workspace / "data" / "prepared" / "val.jsonl"
    for name in ("base", "merged", "awq"):
        paths = ("--metrics", f"{name}.json", "--answers", f"{name}.answers.jsonl")
        succeed(stage.main, "--model", workspace / "models" / name, "--val", val, *paths)
        for path in (f"{name}.json", f"{name}.answers.jsonl"):
            assert (folder / path).read_bytes() == (scored / "eval" / path).read_bytes()


def test_the_quantised_model_scores_like_the_merged_one(scored: Path) -> None:
    merged, awq = (json.loads((scored / "eval" / f"{name}.json").read_text()) for name in ("merged", "awq"))
    assert awq["perplexity"] == pytest.approx(merged["perplexity"], rel=0.02)
    assert set(awq) == {"answer_tokens", "exact_match", "loss", "perplexity", "rows", "stop_rate"}


@pytest.mark.parametrize(
    ("model", "val", "message"),
    [
        ("models/nowhere", "val.jsonl", "models/nowhere: no such file or folder; run `dvc repro` first"),
        ("BASE", "nowhere.jsonl", "nowhere.jsonl: no such file or folder; run `dvc repro` first"),
        ("BASE", "empty.jsonl", "empty.jsonl: no rows; more data or another preprocess.val_fraction is needed"),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, model: str, val: str, message: str
) -> None:
    folder = params().parent
    (folder / "empty.jsonl").write_text("")
    paths = ("--val", val, "--metrics", "scores.json", "--answers", "answers.jsonl")
    assert fail(stage.main, "--model", base if model == "BASE" else model, *paths) == message
    assert sorted(path.name for path in folder.iterdir()) == ["empty.jsonl", "params.yaml"]
