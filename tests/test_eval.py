"""Eval: scores over batches equal those of rows taken one by one with nothing but transformers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from talking import GENERAL, Score, Talker, answered, encode, load, write_tokens

from stages import eval as stage
from stages.common import files, tokens


def test_text_rows_have_a_perplexity_but_no_answer(talker: Talker, score: Score) -> None:
    text = {"text": "A story without a question.<|im_end|>"}
    rows = answered(talker, talker.answers)
    plain, plain_rows = score(talker.folder, rows)
    mixed, mixed_rows = score(talker.folder, [text, *rows[:3], text, *rows[3:]])
    alone, alone_rows = score(talker.folder, [text])
    length = len(encode(load(talker.folder)[1], text).ids)
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


def test_every_row_is_kept_with_what_it_adds_to_the_scores(talker: Talker, score: Score) -> None:
    rows = answered(talker, [answer if place % 2 else "Never." for place, answer in enumerate(talker.answers)])
    found, kept = score(talker.folder, rows)
    assert len(kept) == 8
    assert sum(row["tokens"] for row in kept) == found["answer_tokens"]
    assert sum(row["loss"] for row in kept) / found["answer_tokens"] == pytest.approx(found["loss"], abs=1e-6)
    for score_of in ("exact_match", "normalized_exact_match", "rouge_l", "chrf"):
        assert sum(row[score_of] for row in kept) / 8 == pytest.approx(found[score_of], abs=1e-6)


def test_general_texts_count_every_token_but_the_first(talker: Talker, score: Score) -> None:
    import torch

    model, tokenizer = load(talker.folder)
    losses: list[float] = []
    texts = [row["text"] for row in files.read_rows(GENERAL)]
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logs = model(ids).logits[0].double().log_softmax(-1)
        losses += [-logs[place - 1, ids[0, place]].item() for place in range(1, ids.shape[1])]
    found, _ = score(talker.folder, answered(talker, ["reference"] * 8))
    assert (found["general_rows"], found["general_tokens"]) == (len(texts), len(losses))
    assert found["general_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found["general_perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_perplexity_is_of_the_tokens_in_the_file(talker: Talker, score: Score) -> None:
    rows = answered(talker, ["apple, fig"] * 8)
    encoded = [encode(load(talker.folder)[1], row) for row in rows]
    first = [
        tokens.TokenRow(row.ids, [int(place == row.mask.index(1)) for place in range(len(row.ids))])
        for row in encoded
    ]
    found, _ = score(talker.folder, rows, encoded=first)
    assert found["answer_tokens"] == 8


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_perplexity_is_over_the_answers_tokens_of_all_rows(talker: Talker, score: Score, batch_size: int) -> None:
    import torch

    rows = answered(talker, ["yes", "apple, fig", "No. " * 9, "2", "", "😀", "Be", "3"])
    rows[0]["messages"] += [{"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Really."}]
    model, tokenizer = load(talker.folder)
    losses: list[list[float]] = []
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logs = model(encoded["input_ids"]).logits[0].double().log_softmax(-1)
        mask = torch.as_tensor(encoded["assistant_masks"]).reshape(-1).tolist()
        ids = encoded["input_ids"][0].tolist()
        losses.append([-logs[place - 1, ids[place]].item() for place in range(len(ids)) if mask[place]])
    found, scored = score(talker.folder, rows, {"eval.batch_size": batch_size})
    assert [row["tokens"] for row in scored] == [len(parts) for parts in losses]
    assert [row["loss"] for row in scored] == pytest.approx([sum(parts) for parts in losses], abs=1e-4)
    total, count = sum(map(sum, losses)), sum(map(len, losses))
    assert found["answer_tokens"] == count
    assert found["loss"] == pytest.approx(total / count, abs=2e-6)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_the_params_say_how_many_rows(talker: Talker, score: Score) -> None:
    found, samples = score(talker.folder, answered(talker, ["reference"] * 8), {"eval.rows": 5})
    assert found["rows"] == 5
    assert [sample["answer"] for sample in samples] == talker.answers[:5]


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
    general = {"general_loss", "general_perplexity", "general_rows", "general_tokens"}
    spread = {"answer_words_mean", "distinct_1", "distinct_2", "stop_rate"}
    marks = {"chrf", "exact_match", "normalized_exact_match", "rouge_l"}
    counts = {"answer_tokens", "loss", "perplexity", "rows", "rows_answered", "tasks", "tasks_mean"}
    assert set(awq) == general | spread | marks | counts


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
        ({"--general": "nowhere.jsonl"}, "nowhere.jsonl: no such file; `git checkout nowhere.jsonl` brings it back"),
        ({"--general": "empty.jsonl"}, "empty.jsonl: no texts; `git checkout empty.jsonl` brings them back"),
        ({"--general": "bad.jsonl"}, 'bad.jsonl:2: a line must be like {"text": "A few words."}'),
    ],
)
def test_inputs_that_are_missing_or_do_not_fit_are_named(
    params: Callable[..., Path], fail: Callable[..., str], base: Path, changed: dict[str, str], message: str
) -> None:
    folder = params().parent
    (folder / "empty.jsonl").write_text("")
    (folder / "one.jsonl").write_text('{"text": "One"}\n')
    (folder / "bad.jsonl").write_text('{"text": "One"}\n{"texts": "Two"}\n')
    write_tokens(folder / "one.arrow", [tokens.TokenRow([1], [1])])
    write_tokens(folder / "two.arrow", [tokens.TokenRow([1], [1])] * 2)
    before = sorted(path.name for path in folder.iterdir())
    options = {"--model": base, "--val": "one.jsonl", "--tokens": "one.arrow", "--general": GENERAL} | changed
    outputs = ("--metrics", "scores.json", "--answers", "answers.jsonl")
    given = [str(part) for option in options.items() for part in option]
    assert fail(stage.main, *given, *outputs) == message
    assert sorted(path.name for path in folder.iterdir()) == before
