"""Eval: scores of batches equal those of rows taken one by one with nothing but transformers.

The token file of these tests is made with nothing but transformers, too.

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

import pyarrow as pa
import pytest

from stages import eval as stage
from stages.common import chat, files, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 8
TOOL = {"type": "function", "function": {"name": "roll", "description": "Roll a die.", "parameters": {}}}
# Tools stand in the prompt, and a call is its function's name.
TOOL_TEMPLATE = """\
{%- for tool in tools or [] -%}{{- '<|im_start|>tool\n' + tool | tojson + '<|im_end|>\n' -}}{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}{{- call.function.name -}}{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endgeneration -%}
{%- else -%}{{- message.content + '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
Row = dict[str, Any]


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
def score(
    params: Callable[..., Path], succeed: Callable[..., str]
) -> Callable[..., tuple[dict[str, Any], list[Any]]]:
    """Score a model on rows, and give the metrics and the sample answers."""

    def score(
        model: Path,
        rows: list[Row],
        changes: dict[str, Any] | None = None,
        encoded: list[tokens.TokenRow] | None = None,
    ) -> tuple[dict[str, Any], list[Any]]:
        from transformers import AutoTokenizer

        folder = params({"eval.max_new_tokens": LENGTH, "eval.sample_answers": 100} | (changes or {})).parent
        (folder / "val.jsonl").write_text(files.dump_rows(rows), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(model)
        write_tokens(folder / "val.arrow", encoded or [encode(tokenizer, row) for row in rows])
        inputs = ("--model", model, "--val", "val.jsonl", "--tokens", "val.arrow")
        succeed(stage.main, *inputs, "--metrics", "metrics/eval/x.json", "--answers", "metrics/eval/x.answers.jsonl")
        found = json.loads((folder / "metrics" / "eval" / "x.json").read_text(encoding="utf-8"))
        answers = folder / "metrics" / "eval" / "x.answers.jsonl"
        return found, files.read_rows(answers) if answers.stat().st_size else []

    return score


def answered(talker: Talker, answers: list[str]) -> list[Row]:
    return [
        {"messages": [*prompt, {"role": "assistant", "content": answer}]}
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
    assert found["rows"] == found["rows_answered"] == 8


def test_the_last_answer_of_several_is_asked_for(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    before = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    prompts = [[*before, {"role": "user", "content": "And?"}], before]
    answers = decoded(talker, say(talker.folder, prompts))
    rows = [
        {"messages": [*prompt, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found, samples = score(talker.folder, rows)
    assert [(sample["question"], sample["reference"]) for sample in samples] == [
        (prompt, answer.strip()) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert found["exact_match"] == 1


def decoded(talker: Talker, said: list[list[int]]) -> list[str]:
    """Give what was said up to the stop token."""
    config = json.loads((talker.folder / "generation_config.json").read_text(encoding="utf-8"))
    _, tokenizer = load(talker.folder)
    kept = [ids[:-1] if ids[-1] in config["eos_token_id"] else ids for ids in said]
    return tokenizer.batch_decode(kept, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("1011111", "ab"),
        ("0011110", "ab"),
        ("0011100", "ab"),
        ("0011000", "ab"),
        ("0111000", "?ab"),
        ("1000000", "!"),
    ],
)
def test_the_reference_is_the_last_run_of_learnt_tokens(talker: Talker, mask: str, said: str) -> None:
    speaker = chat.load(talker.folder)
    question, letter_a, letter_b, mark = (speaker.tokenizer.encode(text).ids[0] for text in "?ab!")
    stop = min(speaker.stop_ids, key=lambda token: token == speaker.tokenizer.token_to_id("<|im_end|>"))
    assert speaker.tokenizer.decode([stop])  # the template's own would not be decoded anyway
    newline = speaker.tokenizer.encode("\n").ids[0]
    row = tokens.TokenRow([mark, question, letter_a, letter_b, stop, newline, stop], [int(bit) for bit in mask])
    assert stage.last_answer(row, speaker) == said


@pytest.fixture
def caller(talker: Talker, tmp_path: Path) -> Path:
    """The talker with a template that knows tools."""
    folder = shutil.copytree(talker.folder, tmp_path / "caller")
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


def test_tools_are_offered_and_calls_are_compared_as_the_template_writes_them(
    talker: Talker, caller: Path, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    with_tools, without = (decoded(talker, say(caller, talker.prompts[:4], tools)) for tools in ([TOOL], None))
    assert with_tools != without
    rows: list[Row] = []
    for prompt, answer in zip(talker.prompts, with_tools, strict=False):
        calls = [{"type": "function", "function": {"name": answer, "arguments": {}}}]
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        rows.append({"messages": [*prompt, message], "tools": [TOOL]})
    rows[1]["messages"][-1]["tool_calls"][0]["function"]["name"] += "!"
    _, samples = score(caller, rows)
    assert [sample["answer"] for sample in samples] == with_tools
    assert [sample["match"] for sample in samples] == [True, False, True, True]
    assert samples[1]["reference"] == (with_tools[1] + "!").strip()


def test_text_rows_have_a_perplexity_but_no_answer(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    text = {"text": "A story without a question.<|im_end|>"}
    rows = answered(talker, talker.answers)
    plain, plain_samples = score(talker.folder, rows)
    mixed, samples = score(talker.folder, [text, *rows[:3], text, *rows[3:]])
    alone, none = score(talker.folder, [text])
    length = len(encode(load(talker.folder)[1], text).ids)
    assert (mixed["rows"], mixed["rows_answered"]) == (10, 8)
    assert (mixed["exact_match"], mixed["stop_rate"]) == (plain["exact_match"], plain["stop_rate"])
    assert samples == plain_samples
    assert alone["answer_tokens"] == length - 1  # nothing predicts a row's first token
    assert mixed["answer_tokens"] == plain["answer_tokens"] + 2 * (length - 1)
    total = plain["loss"] * plain["answer_tokens"] + 2 * alone["loss"] * alone["answer_tokens"]
    assert mixed["loss"] == pytest.approx(total / mixed["answer_tokens"], abs=1e-5)
    assert (alone["rows_answered"], alone["exact_match"], alone["stop_rate"], none) == (0, None, None, [])


def test_perplexity_is_of_the_tokens_in_the_file(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]]
) -> None:
    rows = answered(talker, ["apple, fig"] * 8)
    encoded = [encode(load(talker.folder)[1], row) for row in rows]
    first = [
        tokens.TokenRow(row.ids, [int(place == row.mask.index(1)) for place in range(len(row.ids))])
        for row in encoded
    ]
    found, _ = score(talker.folder, rows, encoded=first)
    assert found["answer_tokens"] == 8


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_perplexity_is_over_the_answers_tokens_of_all_rows(
    talker: Talker, score: Callable[..., tuple[dict[str, Any], list[Any]]], batch_size: int
) -> None:
    import torch

    rows = answered(talker, ["yes", "apple, fig", "No. " * 9, "2", "", "😀", "Be", "3"])
    rows[0]["messages"] += [{"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Really."}]
    model, tokenizer = load(talker.folder)
    losses: list[float] = []
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
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
    prepared = workspace / "data" / "prepared"
    inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow")
    for name in ("base", "merged", "awq"):
        paths = ("--metrics", f"{name}.json", "--answers", f"{name}.answers.jsonl")
        succeed(stage.main, "--model", workspace / "models" / name, *inputs, *paths)
        for path in (f"{name}.json", f"{name}.answers.jsonl"):
            assert (folder / path).read_bytes() == (scored / "eval" / path).read_bytes()


def test_the_quantised_model_scores_like_the_merged_one(scored: Path) -> None:
    merged, awq = (json.loads((scored / "eval" / f"{name}.json").read_text()) for name in ("merged", "awq"))
    assert awq["perplexity"] == pytest.approx(merged["perplexity"], rel=0.02)
    names = {"answer_tokens", "exact_match", "loss", "perplexity", "rows", "rows_answered", "stop_rate"}
    assert set(awq) == names


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--model": "models/nowhere"}, "models/nowhere: no such file or folder; run `dvc repro` first"),
        ({"--val": "nowhere.jsonl"}, "nowhere.jsonl: no such file or folder; run `dvc repro` first"),
        (
            {"--val": "empty.jsonl"},
            "empty.jsonl: no rows; more data or another preprocess.val_fraction is needed",
        ),
        ({"--tokens": "nowhere.arrow"}, "nowhere.arrow: no such file or folder; run `dvc repro` first"),
        (
            {"--tokens": "empty.jsonl"},
            "empty.jsonl: not a token file of the preprocess stage; run `dvc repro preprocess`",
        ),
        (
            {"--tokens": "two.arrow"},
            "two.arrow: 2 rows, one.jsonl: 1; run `dvc repro preprocess` to make both anew",
        ),
    ],
)
def test_inputs_that_are_missing_or_do_not_fit_are_named(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, changed: dict[str, str], message: str
) -> None:
    folder = params().parent
    (folder / "empty.jsonl").write_text("")
    (folder / "one.jsonl").write_text('{"text": "One"}\n')
    write_tokens(folder / "one.arrow", [tokens.TokenRow([1], [1])])
    write_tokens(folder / "two.arrow", [tokens.TokenRow([1], [1])] * 2)
    before = sorted(path.name for path in folder.iterdir())
    options = {"--model": str(base), "--val": "one.jsonl", "--tokens": "one.arrow"} | changed
    outputs = ("--metrics", "scores.json", "--answers", "answers.jsonl")
    assert fail(stage.main, *(part for option in options.items() for part in option), *outputs) == message
    assert sorted(path.name for path in folder.iterdir()) == before
