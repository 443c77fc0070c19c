"""Samples: rows drawn uniformly, in their order, with their values unchanged."""

import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from import_project import ROWS, command, lines, record, sha256

from stages.preprocess.readers import read_rows

samples = importlib.import_module("tools.import.samples")


@pytest.mark.slow
def test_a_sample_has_rows_of_the_source_in_their_order_the_same_for_a_seed(
    project: Path, source: Path, succeed: Callable[..., str]
) -> None:
    assert succeed(command, source, "--limit", "32", "--licence", "mit").splitlines()[0] == (
        "data/raw/rows-32.jsonl: 32 rows of rows.jsonl, licence mit"
    )
    assert record(project, "rows-32.jsonl")["meta"] == {
        "source": "rows.jsonl",
        "revision": sha256(ROWS),
        "licence": "mit",
        "rows": 32,
        "limit": 32,
        "seed": 7,
    }
    assert record(project, "rows-32.jsonl")["desc"] == "32 rows of rows.jsonl"
    first, all_rows = lines(project, "rows-32.jsonl"), ROWS.decode().splitlines()
    assert len(set(first)) == 32
    assert [row for row in all_rows if row in first] == first
    succeed(command, source, "--limit", "32", "--name", "again.jsonl")
    assert lines(project, "again.jsonl") == first
    succeed(command, source, "--limit", "32", "--seed", "8", "--name", "other.jsonl")
    assert lines(project, "other.jsonl") != first
    succeed(command, source, "--limit", "100")
    assert (project / "data/raw/rows-100.jsonl").read_bytes() == ROWS
    assert succeed(command, source, "--limit", "32") == "data/raw/rows-32.jsonl: already imported\n"


def test_a_sample_of_2k_is_one_of_2000(tmp_path: Path) -> None:
    assert [samples.sample_size(text) for text in (None, "", "32", "2k", "2000", "100k")] == [
        0,
        0,
        32,
        2000,
        2000,
        100_000,
    ]


def test_every_row_is_equally_likely_in_a_sample(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"{number}\n" for number in range(20)), encoding="utf-8")
    taken = dict.fromkeys(range(20), 0)
    for seed in range(1000):
        drawn = [int(row.values["text"]) for row in read_rows(samples.draw_sample(source, out, 20, 5, seed))]
        assert len(drawn) == 5
        for number in drawn:
            taken[number] += 1
    assert sum(taken.values()) == 5000
    assert all(195 <= times <= 305 for times in taken.values()), taken  # 250, four deviations of 13.7 either way


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz", "rows.csv", "rows.parquet", "rows.txt.gz"])
def test_a_sample_of_any_kind_keeps_the_values(tmp_path: Path, name: str) -> None:
    import pyarrow
    from pyarrow import parquet

    path, out = tmp_path / name, tmp_path / "out.jsonl"
    rows = [
        {
            "text": f"{number} \u2028 \U0001f600 \u00e9 \x00",
            "float": number / 3,
            "whole": 1.0,
            "none": None,
            "list": [{"a": number}],
        }
        for number in range(10)
    ]
    if name == "rows.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name == "rows.csv":
        path.write_text("a,b\n" + "".join(f'"{number}\n\u00e9",\n' for number in range(10)), encoding="utf-8")
    elif name == "rows.json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    expected = [row.values for row in read_rows(path)]
    drawn = [row.values for row in read_rows(samples.draw_sample(path, out, 10, 10, 7))]
    assert drawn == expected
    assert json.dumps(drawn) == json.dumps(expected)  # 1.0 does not become 1, and the keys keep their order
    few = [row.values for row in read_rows(samples.draw_sample(path, out, 10, 4, 7))]
    assert [row for row in expected if row in few] == few


def test_a_lone_surrogate_stays_one(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b'{"text": "\\ud83d and \xc3\xa9"}\n')
    samples.draw_sample(path, out, 1, 1, 7)
    assert [row.values for row in read_rows(out)] == [{"text": "\ud83d and \u00e9"}]


@pytest.mark.slow
def test_a_row_that_json_cannot_hold_is_named(tmp_path: Path, fail: Callable[..., str]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{"image": b"\xff"}]), tmp_path / "rows.parquet")
    message = "rows.parquet:1: Object of type bytes is not JSON serializable; import the file without --limit"
    assert fail(command, tmp_path / "rows.parquet", "--limit", "1") == message
    assert list((tmp_path / "data/raw").iterdir()) == []
