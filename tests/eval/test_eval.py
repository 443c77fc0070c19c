"""Eval: what the whole stage writes, compared with transformers."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from noisy_model import GENERAL, NoisyModel, Score, decode, encode, generate_alone, load, with_answers

from stages.common import files, tokens
from stages.common.chat import Row
from stages.eval import __main__ as stage

TOOL = {"type": "function", "function": {"name": "roll", "description": "Roll a die.", "parameters": {}}}
# The prompt lists the tools; a tool call is written as the name of its function.
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


def test_every_row_has_its_prompt_reference_answer_and_loss(noisy_model: NoisyModel, score: Score) -> None:
    references = [answer if place % 2 else "Never." for place, answer in enumerate(noisy_model.answers)]
    total, rows = score(noisy_model.folder, with_answers(noisy_model.prompts, references))
    assert [row["question"] for row in rows] == noisy_model.prompts
    assert [row["reference"] for row in rows] == [text.strip() for text in references]
    assert [row["answer"] for row in rows] == noisy_model.answers
    assert total["stop_rate"] == round(sum(noisy_model.stopped) / 8, 6)
    assert total["rows"] == total["rows_answered"] == 8
    assert sum(row["tokens"] for row in rows) == total["answer_tokens"]
    assert sum(row["loss"] for row in rows) / total["answer_tokens"] == pytest.approx(total["loss"], abs=1e-6)
    for name in ("exact_match", "normalized_exact_match", "rouge_l", "chrf"):
        assert sum(row[name] for row in rows) / 8 == pytest.approx(total[name], abs=1e-6)


def test_an_exact_match_ignores_blanks_at_both_ends_only(noisy_model: NoisyModel, score: Score) -> None:
    references = [f" {answer}\n" for answer in noisy_model.answers]
    for wrong in (0, 3, 5):
        references[wrong] = noisy_model.answers[wrong] + "!"
    total, rows = score(noisy_model.folder, with_answers(noisy_model.prompts, references))
    assert [row["exact_match"] for row in rows] == [place not in (0, 3, 5) for place in range(8)]
    assert total["exact_match"] == 0.625


def test_the_prompt_ends_before_the_last_answer(noisy_model: NoisyModel, score: Score) -> None:
    start = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    prompts = [[*start, {"role": "user", "content": "And?"}], start]
    answers = decode(noisy_model.folder, generate_alone(noisy_model.folder, prompts))
    total, rows = score(noisy_model.folder, with_answers(prompts, answers))
    assert [(row["question"], row["reference"]) for row in rows] == [
        (prompt, answer.strip()) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert total["exact_match"] == 1


def test_tools_are_in_the_prompt_and_tool_calls_are_compared_as_the_template_writes_them(
    noisy_model: NoisyModel, score: Score, tmp_path: Path
) -> None:
    folder = shutil.copytree(noisy_model.folder, tmp_path / "with_tools")
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    prompts = noisy_model.prompts[:4]
    with_tools, without = (decode(folder, generate_alone(folder, prompts, tools)) for tools in ([TOOL], None))
    assert with_tools != without
    rows: list[Row] = []
    for prompt, answer in zip(prompts, with_tools, strict=True):
        calls = [{"type": "function", "function": {"name": answer, "arguments": {}}}]
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        rows.append({"messages": [*prompt, message], "tools": [TOOL]})
    rows[1]["messages"][-1]["tool_calls"][0]["function"]["name"] += "!"
    _, scored = score(folder, rows)
    assert [row["answer"] for row in scored] == with_tools
    assert [row["exact_match"] for row in scored] == [True, False, True, True]
    assert [row["tools"] for row in scored] == [[TOOL]] * 4
    assert scored[1]["reference"] == (with_tools[1] + "!").strip()


@pytest.mark.slow
def test_plain_text_has_a_loss_but_no_answer(noisy_model: NoisyModel, score: Score) -> None:
    text = {"text": "A story without a question.<|im_end|>"}
    rows = with_answers(noisy_model.prompts, noisy_model.answers)
    plain, plain_rows = score(noisy_model.folder, rows)
    mixed, mixed_rows = score(noisy_model.folder, [text, *rows[:3], text, *rows[3:]])
    alone, alone_rows = score(noisy_model.folder, [text])
    length = len(encode(load(noisy_model.folder)[1], text).ids)
    assert (mixed["rows"], mixed["rows_answered"]) == (10, 8)
    assert (mixed["exact_match"], mixed["stop_rate"]) == (plain["exact_match"], plain["stop_rate"])
    assert [row["answer"] for row in mixed_rows if "answer" in row] == [row["answer"] for row in plain_rows]
    assert [place for place, row in enumerate(mixed_rows) if row.get("text") == text["text"]] == [0, 4]
    assert alone["answer_tokens"] == length - 1  # nothing predicts a row's first token
    assert mixed["answer_tokens"] == plain["answer_tokens"] + 2 * (length - 1)
    total = plain["loss"] * plain["answer_tokens"] + 2 * alone["loss"] * alone["answer_tokens"]
    assert mixed["loss"] == pytest.approx(total / mixed["answer_tokens"], abs=1e-5)
    assert set(alone_rows[0]) == {"text", "loss", "tokens"}
    assert (alone["rows_answered"], alone["exact_match"], alone["stop_rate"], alone["chrf"]) == (0, None, None, None)


def test_general_texts_count_every_token_but_the_first(noisy_model: NoisyModel, score: Score) -> None:
    import torch

    model, tokenizer = load(noisy_model.folder)
    losses: list[float] = []
    texts = [row["text"] for row in files.read_rows(GENERAL)]
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logs = model(ids).logits[0].double().log_softmax(-1)
        losses += [-logs[place - 1, ids[0, place]].item() for place in range(1, ids.shape[1])]
    total, _ = score(noisy_model.folder, with_answers(noisy_model.prompts, ["reference"] * 8))
    assert (total["general_rows"], total["general_tokens"]) == (len(texts), len(losses))
    assert total["general_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert total["general_perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_the_loss_mask_comes_from_the_token_file(noisy_model: NoisyModel, score: Score) -> None:
    rows = with_answers(noisy_model.prompts, ["apple, fig"] * 8)
    encoded = [encode(load(noisy_model.folder)[1], row) for row in rows]
    first = [
        tokens.TokenRow(row.ids, [int(place == row.mask.index(1)) for place in range(len(row.ids))])
        for row in encoded
    ]
    total, _ = score(noisy_model.folder, rows, encoded=first)
    assert total["answer_tokens"] == 8


def test_eval_rows_limits_the_number_of_rows(noisy_model: NoisyModel, score: Score) -> None:
    rows = with_answers(noisy_model.prompts, ["reference"] * 8)
    total, scored = score(noisy_model.folder, rows, {"eval.rows": 5})
    assert total["rows"] == 5
    assert [row["answer"] for row in scored] == noisy_model.answers[:5]


@pytest.mark.slow
def test_scoring_again_gives_the_same_bytes(
    params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, scored: Path
) -> None:
    folder = params().parent
    prepared = workspace / "data" / "prepared"
    inputs = ("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL)
    for name in ("base", "merged", "awq"):
        paths = ("--metrics", f"{name}.json", "--answers", f"{name}.answers.jsonl")
        succeed(stage.main, "--model", workspace / "models" / name, *inputs, *paths)
        for path in (f"{name}.json", f"{name}.answers.jsonl"):
            assert (folder / path).read_bytes() == (scored / "eval" / path).read_bytes()


def test_the_quantised_model_scores_like_the_merged_one(scored: Path) -> None:
    merged, awq = (json.loads((scored / "eval" / f"{name}.json").read_text()) for name in ("merged", "awq"))
    assert awq["perplexity"] == pytest.approx(merged["perplexity"], rel=0.02)
    assert set(awq) == {
        *("rows", "rows_answered", "answer_tokens", "loss", "perplexity", "tasks", "tasks_mean"),
        *("exact_match", "normalized_exact_match", "rouge_l", "chrf"),
        *("stop_rate", "fitting_rate", "answer_words_mean", "distinct_1", "distinct_2"),
        *("general_rows", "general_tokens", "general_loss", "general_perplexity"),
    }
