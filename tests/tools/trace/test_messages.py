"""The messages of `make trace`, each in full once."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import checkouts
import pytest
from stage_runs import ROOT
from trace_project import edit, pick, run

from tools.trace import __main__ as trace

pytestmark = pytest.mark.slow  # DVC runs a pipeline


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("rows.jsonl:29", "rows.jsonl:29: no such row; rows.jsonl has rows 1 to 28"),
        ("rows.jsonl:0", "rows.jsonl:0: no such row; rows.jsonl has rows 1 to 28"),
        ("row.jsonl:1", "row.jsonl:1: no such file in the manifest; try rows.jsonl, more.jsonl, talk.jsonl"),
        ("other.csv:1", "other.csv:1: no such file in the manifest; try more.jsonl, rows.jsonl, talk.jsonl"),
        ("at 10:30", "at 10:30: no row has this id or hash, and no kept row has these words; try others"),
    ],
)
def test_a_row_that_does_not_exist(project: Path, fail: Callable[..., str], row: str, message: str) -> None:
    assert fail(trace.main, row) == message


def test_seven_digits_of_a_hash_are_too_few(project: Path, fail: Callable[..., str]) -> None:
    digits = pick(project, file="rows.jsonl", line=3)["content_hash"][:7]
    assert fail(trace.main, digits).startswith(f"{digits}: no row has this id or hash")


def test_without_data_the_error_says_how_to_make_some(tmp_path: Path, fail: Callable[..., str]) -> None:
    message = "data/prepared/manifest.parquet: no such file or folder; run `dvc repro` first"
    assert fail(trace.main, "rows.jsonl:1") == message


def test_a_revision_without_a_lock_is_one_line(project: Path, fail: Callable[..., str]) -> None:
    assert fail(trace.main, "rows.jsonl:3", "--rev", "empty").startswith("git show: fatal: ")


def test_a_lock_from_before_the_manifest_is_one_line(project: Path, fail: Callable[..., str]) -> None:
    edit(project / "dvc.lock", "manifest.parquet", "other.parquet")
    run(project, "git add -A", "git commit -qm old")
    message = "dvc.lock at HEAD: data/prepared/manifest.parquet is not in it; name a revision that has it"
    assert fail(trace.main, "rows.jsonl:3", "--rev", "HEAD") == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trace", "ROW=cost $5"], "Error: cost $5: no row has this id or hash, and no kept row has these words"),
        (["trace", "ROW=$(touch made) `touch made`"], "Error: $(touch made) `touch made`: no row has this id"),
        (["trace", "ROW=$(shell touch made)"], "Error: $(shell touch made): no row has this id"),
        (["trace", "ROW=--help"], "Error: --help: no row has this id"),
        (["trace"], "Error: Missing argument 'ROW'"),
        (
            ["show-tokens", "N=1; touch made"],
            "Error: Invalid value for '--n': '1; touch made' is not a valid integer",
        ),
        (["show-tokens", "SPLIT=$(touch made)"], "Error: Invalid value for '--split': '$(touch made)' is not one of"),
    ],
)
def test_make_hands_on_what_was_typed(project: Path, words: list[str], message: str) -> None:
    shutil.copy(ROOT / "Makefile", project)
    base = ["make", "--no-print-directory", "--old-file", f"{sys.prefix}/.pipeline", f"VENV={sys.prefix}"]
    done = checkouts.run(project, *base, *words, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (project / "made").exists()
