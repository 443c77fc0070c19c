"""`make trace`: which models were trained, calibrated or scored on a row."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trace_project import ROWS, edit, md5, parts, pick, row_id, run, write_rows

from tools.trace import __main__ as trace

pytestmark = pytest.mark.slow  # DVC runs a pipeline


def test_a_train_row_is_followed_to_the_models(project: Path, succeed: Callable[..., str]) -> None:
    record = pick(project, outcome="train", file="rows.jsonl", calibration=False)
    given = ROWS[record["line"] - 1]
    assert parts(succeed(trace.main, row_id(record))) == [
        ("row", f"rows.jsonl:{record['line']} in data/raw"),
        ("content hash", record["content_hash"]),
        ("outcome", f"train: line {record['position'] + 1} of data/prepared/train.jsonl, row {record['position']} of "
         "train.arrow"),
        ("tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised"),
        ("calibration", "no"),
        ("user", given["instruction"]),
        ("assistant", given["output"]),
        ("models/adapter", f"trained on it; md5 {md5(project, 'models/adapter')}"),
        ("models/merged", f"base with that adapter; md5 {md5(project, 'models/merged')}"),
        ("models/awq", f"base with that adapter, quantised; md5 {md5(project, 'models/awq')}"),
    ]  # fmt: skip


def test_awq_was_calibrated_on_a_calibration_row(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, calibration=True))))
    assert ("calibration", "yes") in found
    assert found[-1][1].startswith("base with that adapter, quantised, calibrated on this row; md5 ")


def test_earlier_versions_quantised_the_merged_model(project: Path, succeed: Callable[..., str]) -> None:
    edit(project / "dvc.yaml", "calibration.arrow models/adapter >", "calibration.arrow models/merged >")
    edit(project / "dvc.yaml", "calibration.arrow, models/adapter]", "calibration.arrow, models/merged]")
    run(project, "dvc repro -q awq")
    found = parts(succeed(trace.main, row_id(pick(project, outcome="train", calibration=False))))
    assert found[-1] == ("models/awq", f"that merged model, quantised; md5 {md5(project, 'models/awq')}")


def test_a_val_row_was_only_scored_on(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, outcome="val", position=3))))
    assert found[-4:] == [
        ("models", "none is trained on it"),
        *((f"models/{name}", "scored on it") for name in ("base", "merged", "awq")),
    ]


def test_a_val_row_beyond_eval_rows_was_not_scored_on(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, row_id(pick(project, outcome="val", position=4))))
    assert found[-1] == ("models/awq", "not scored on it: eval.rows takes the first 4 val rows")


def test_without_a_lock_no_model_is_named(project: Path, succeed: Callable[..., str]) -> None:
    (project / "dvc.lock").unlink()
    found = parts(succeed(trace.main, row_id(pick(project, outcome="train"))))
    assert found[-1] == (
        "models",
        "unknown: dvc.lock does not have data/prepared/manifest.parquet; run `dvc repro`",
    )
    assert not any(name.startswith("models/") for name, _ in found)


def test_a_manifest_newer_than_the_lock_names_no_model(project: Path, succeed: Callable[..., str]) -> None:
    run(project, f"{sys.executable} -m stages.preprocess")
    row = row_id(pick(project, outcome="train"))
    before = parts(succeed(trace.main, row))
    assert before[-1][0] == "models/awq"  # the same bytes again
    edit(project / "data/raw/rows.jsonl", "Count from 3 ", "Please count from 3 ")
    run(project, f"{sys.executable} -m stages.preprocess")
    assert parts(succeed(trace.main, row))[-1] == (
        "models",
        "unknown: data/prepared/manifest.parquet is not the one in dvc.lock; run `dvc repro`",
    )


def test_a_model_trained_on_other_rows_is_not_named(project: Path, succeed: Callable[..., str]) -> None:
    write_rows(project / "data/raw/more.jsonl", [{"instruction": "What is new?", "output": "That."}])
    run(project, "dvc repro -q preprocess")
    row = row_id(pick(project, outcome="train"))
    other = "made from another data/prepared/train.arrow than this one; run `dvc repro train`"
    assert parts(succeed(trace.main, row))[-1] == ("models/adapter", other)
    run(project, "dvc repro -q train")
    assert parts(succeed(trace.main, row))[-2:] == [
        ("models/adapter", f"trained on it; md5 {md5(project, 'models/adapter')}"),
        ("models/merged", "made from another models/adapter than this one; run `dvc repro merge`"),
    ]
    run(project, "dvc repro -q")
    assert parts(succeed(trace.main, row))[-1][1].startswith("base with that adapter, quantised")


def test_a_model_that_was_never_made(project: Path, succeed: Callable[..., str]) -> None:
    (project / "dvc.lock").unlink()
    run(project, "dvc repro -q preprocess")
    found = parts(succeed(trace.main, row_id(pick(project, outcome="train"))))
    assert found[-1] == ("models/adapter", "not made; run `dvc repro train`")
    found = parts(succeed(trace.main, row_id(pick(project, outcome="val"))))
    assert found[-1] == ("models", "none is trained on it")


def test_a_revision_has_its_own_rows_and_models(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    new = pick(project, file="more.jsonl", outcome="train")
    assert fail(trace.main, row_id(new), "--rev", "first").startswith(f"{row_id(new)}: no such file in the manifest")
    row = row_id(pick(project, file="rows.jsonl", outcome="train"))
    now, then = parts(succeed(trace.main, row)), parts(succeed(trace.main, row, "--rev", "first"))
    assert now[:2] == then[:2]
    assert now[-1] != then[-1]
    run(project, "git checkout -q -f first", "dvc checkout -q")
    assert parts(succeed(trace.main, row)) == then
