"""Rows: the tokens that preprocess will find, before it has run."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.common import chat
from stages.common.params import load_params
from stages.preprocess.params import PreprocessParams
from stages.preprocess.sources import find_sources
from tools.plan.rows import count_prepared, count_raw, count_rows

ROW = {"instruction": "Say it.", "output": "It."}


def test_raw_rows_have_the_tokens_of_the_prepared_ones(
    workspace: Path, base: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "data" / "benchmarks").mkdir(exist_ok=True)
    config = load_params(workspace / "params.yaml", "preprocess", PreprocessParams)
    wanted = count_prepared(prepared)
    found = count_raw(config, chat.load(base), workspace / "data" / "raw")
    assert found.raw_rows == len(wanted.train) + len(wanted.val)
    assert sorted(found.train + found.val) == sorted(wanted.train + wanted.val)
    assert len(found.val) == pytest.approx(len(wanted.val), abs=5)  # the split is drawn
    assert len(found.calibration) == len(wanted.calibration)
    assert found.in_loss == pytest.approx(wanted.in_loss, rel=0.1)
    assert found.seconds_per_row > 0


def test_without_a_tokenizer_bytes_are_counted(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    config = load_params(workspace / "params.yaml", "preprocess", PreprocessParams)
    found = count_raw(config, None, workspace / "data" / "raw")
    assert found.raw_rows == 50
    assert "bytes a token" in found.known
    assert all(5 < size < 60 for size in found.train)


def written(folder: Path, kind: str) -> Path:
    """Write seven rows as a file of some type."""
    path, rows = folder / f"rows{kind}", [ROW] * 7
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", pytest.param(".parquet", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("limit", "expected"), [(None, 7), (3, 3)])
def test_rows_are_counted_in_every_kind_of_file(
    tmp_path: Path, params: Callable[..., Path], kind: str, limit: Any, expected: int
) -> None:
    config = load_params(params({"preprocess.rows": limit}), "preprocess", PreprocessParams)
    (tmp_path / "raw").mkdir()
    written(tmp_path / "raw", kind)
    (source,) = find_sources(tmp_path / "raw", config)
    assert count_rows(source, config.rows) == expected
