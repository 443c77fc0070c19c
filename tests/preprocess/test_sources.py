"""Sources: which files of data/raw are read, and the format that each has."""

import os
from pathlib import Path

import click
import pytest
from preparing import Prepare, alpaca, counts, kept, lines, rows

from stages.preprocess.sources import data_files


def test_data_files_are_sorted_and_other_files_left_out(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl", "C.TXT.GZ", ".hidden.csv", "a.jsonl.dvc", "README.md", ".gitignore"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    assert [path.name for path in data_files(tmp_path)] == ["C.TXT.GZ", "a.jsonl", "b.csv"]


@pytest.mark.parametrize("name", ["rows.xml", "README", "rows.jsonl.bz2", "rows.json.gz.zst", "jsonl", "rows.gz"])
def test_unsupported_file_types_are_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(click.ClickException) as caught:
        data_files(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path}/{name}: ")


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff.jsonl"), "a\nb.jsonl"])
def test_a_name_that_cannot_be_printed_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(click.ClickException) as caught:
        data_files(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path}: {name!a}: ")


def test_a_folder_without_data_files_is_an_error_where_they_are_required(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(click.ClickException) as caught:
            data_files(folder)
        assert caught.value.message.startswith(f"{folder}: no data files")
        assert data_files(folder, required=False) == []


def test_hidden_and_dvc_files_are_not_read(prepare: Prepare) -> None:
    folder = prepare({"rows.jsonl": lines(rows(20)), ".gitignore": "/rows.jsonl\n", "rows.jsonl.dvc": "outs:\n"})
    assert counts(folder)["rows_read"] == 20


def test_a_format_in_the_params_takes_precedence_over_the_columns(prepare: Prepare) -> None:
    values = [alpaca(f"Is {n} a number?") | {"text": f"{n} is one."} for n in range(20)]
    changes = {"preprocess.files": {"a.*": {"format": "text"}}}
    folder = prepare({"a.jsonl": lines(values), "b.jsonl": lines(values)}, changes)
    assert {name: share["format"] for name, share in counts(folder)["files"].items()} == {
        "a.jsonl": "text",
        "b.jsonl": "alpaca",
    }
    assert sum("text" in value for value in kept(folder)) == 20
