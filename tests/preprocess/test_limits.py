"""Limits of what a file may hold: a small file that stands for much is refused with its name and the setting."""

import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from pyarrow import parquet
from stage_runs import ROOT

from stages.preprocess import limits
from stages.preprocess.params import FileParams
from stages.preprocess.readers import read_rows

SMALL = FileParams(max_row_mib=1 / 1024)  # 1 KiB
ROW = {"instruction": "Say hi.", "output": "Hi."}
LONG = {"instruction": "Say hi.", "output": "h" * 2000}
READ = """
import resource, sys
from pathlib import Path
import click
from stages.preprocess.params import FileParams
from stages.preprocess.readers import read_rows
import pyarrow.parquet
try:
    print(sum(1 for _ in read_rows(Path(sys.argv[1]), FileParams.model_validate_json(sys.argv[2]))))
except click.ClickException as error:
    print(error.message)
"""


def refusal(path: Path, params: FileParams = SMALL) -> str:
    with pytest.raises(click.ClickException) as caught:
        list(read_rows(path, params))
    return caught.value.message


def in_little_memory(path: Path, gib: float, **params: Any) -> str:
    """What a process prints that reads a file and may take so much memory."""
    most = int(gib * (1 << 30))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), json.dumps(params)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("lines.jsonl", f"{json.dumps(ROW)}\n{json.dumps(LONG)}\n", ":2"),
        ("lines.json", f"{json.dumps(ROW)}\n{json.dumps(LONG)}\n", ":2"),
        ("open.jsonl", f"{json.dumps(ROW)}\n" + '{"a": "' + "x" * 5000, ":2"),
        ("array.json", json.dumps([ROW, LONG | {"more": "x" * 3_000_000}], indent=1), ": row 2"),
        ("object.json", json.dumps({"data": [ROW] * 90_000}, indent=1), ": row 1"),
        ("brackets.json", "[" * 3_000_000, ": row 1"),
        ("rows.csv", "instruction,output\nSay hi.,Hi.\n" + "x" * 2000 + ",y\n", ":3"),
        ("field.csv", 'instruction,output\nSay hi.,Hi.\nSay hi.,"' + "x\n" * 2000 + '"\n', ":3"),
        ("open.csv", 'instruction,output\nSay hi.,"' + "x\n" * 2000, ":2"),
        ("cells.csv", "a," * 2000 + "b\n1\n", ":1"),
        ("rows.tsv", "instruction\toutput\n\nSay hi.\t" + "x" * 2000 + "\n", ":3"),
        ("rows.txt", "one\n" + "x" * 2000 + "\n", ":2"),
    ],
)
def test_a_long_row_is_refused_with_its_place(tmp_path: Path, name: str, text: str, place: str) -> None:
    for packed in ("", ".gz"):
        path = tmp_path / f"{name}{packed}"
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        if name == "brackets.json":  # the parser meets its own limit first
            assert refusal(path) == f"{path}: row 1: a number is too long or the nesting too deep; fix the row"
            continue
        assert refusal(path) == (
            f"{path}{place}: the row is longer than 0.000976562 MiB; fix it, or raise the limit in preprocess.files, "
            f"such as {{'{path.name}': {{max_row_mib: 0.00195312}}}}"
        )


@pytest.mark.parametrize("sample_by", ["paragraph", "document"])
def test_lines_that_make_one_row_count_together(tmp_path: Path, sample_by: Any) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("short\n\n" + "many words\n" * 500, encoding="utf-8")
    place = ":3" if sample_by == "paragraph" else ":1"
    message = refusal(path, SMALL.model_copy(update={"sample_by": sample_by}))
    assert message.startswith(f"{path}{place}: the row is longer than ")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt", "rows.json"])
def test_many_rows_together_may_be_longer(tmp_path: Path, name: str) -> None:
    rows = {
        "rows.jsonl": f"{json.dumps(ROW)}\n" * 500,
        "rows.csv": "instruction,output\n" + 'Say hi.,"Hi.\nHo."\n' * 500,
        "rows.txt": "a line\n" * 500,
        "rows.json": json.dumps([ROW] * 500),
    }
    (tmp_path / name).write_text(rows[name], encoding="utf-8")
    assert len(list(read_rows(tmp_path / name, SMALL))) == 500


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.csv.gz", "rows.parquet.gz"])
def test_a_file_that_unpacks_to_much_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = "gzip" if name.endswith("gz") else "zstd"
    with pa.output_stream(str(path), compression=kind) as file:
        file.write(b"instruction,output\n" + b"a,b\n" * 400_000 if ".csv" in name else b'{"text": "a"}\n' * 100_000)
    assert refusal(path, FileParams(max_unpacked_gib=0.0009765625)) == (
        f"{path}: unpacks to more than 0.000976562 GiB; raise max_unpacked_gib in preprocess.files, or split the file"
    )


@pytest.mark.slow
def test_a_file_that_unpacks_to_very_many_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(b'{"text": "a"}\n' * 1_000_000)
    assert len(list(read_rows(path))) == 1_000_000  # too small to do harm
    monkeypatch.setattr(limits, "RATIO_FROM", 1 << 20)
    assert refusal(path) == (
        f"{path}: unpacks to more than 1000 times its size; fetch it again, or unpack it yourself"
    )


@pytest.mark.slow
def test_a_line_of_gigabytes_in_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        for _ in range(1900):
            file.write(b"a" * (1 << 20))
    assert path.stat().st_size < 100_000
    assert in_little_memory(path, 3).startswith(f"{path}:1: the row is longer than 256 MiB; fix it, or ")
    assert in_little_memory(path, 2, max_row_mib=16).startswith(f"{path}:1: the row is longer than 16 MiB; ")


@pytest.mark.slow
def test_blanks_after_an_array_are_not_gathered(tmp_path: Path) -> None:
    path = tmp_path / "rows.json.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(json.dumps([ROW]).encode())
        for _ in range(900):
            file.write(b" " * (1 << 20))
    assert in_little_memory(path, 1.5) == "1"


def one_text(times: int) -> pa.Array:
    """A text of 10 MB that stands once in memory and in a file, for so many values."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array(["x" * 10_000_000]))


def dictionary_bomb(path: Path) -> None:
    """A text that 1000 rows share."""
    parquet.write_table(pa.table({"text": one_text(1000)}), path, compression="zstd", store_schema=False)


def nested_bomb(path: Path) -> None:
    """A text that the parts of one row share; Arrow decodes it to a list of texts."""
    lists = pa.ListArray.from_arrays(pa.array([0, 1000], pa.int32()), one_text(1000))
    parquet.write_table(pa.table({"text": lists}), path, compression="zstd", store_schema=False)


def shared_bomb(path: Path) -> None:
    """The same, which Arrow keeps as one text and a list of numbers."""
    lists = pa.ListArray.from_arrays(pa.array([0, 1000], pa.int32()), one_text(1000))
    parquet.write_table(pa.table({"text": lists}), path, compression="zstd")


def page_bomb(path: Path) -> None:
    """A page of zeros that a few bytes stand for."""
    values = pa.array([b"\0" * 500_000_000], pa.binary())
    parquet.write_table(pa.table({"text": values}), path, compression="zstd", use_dictionary=False)


@pytest.mark.slow
@pytest.mark.parametrize("write", [dictionary_bomb, nested_bomb, shared_bomb, page_bomb])
def test_parquet_that_decodes_to_gigabytes_takes_little_memory(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "rows.parquet"
    write(path)
    assert path.stat().st_size < 200_000
    assert in_little_memory(path, 1.5, max_row_mib=16) == (
        f"{path}: 1000 rows take more than 256 MiB; fetch it again, write it with smaller rows, or raise "
        "max_row_mib in preprocess.files"
    )


@pytest.mark.slow
def test_a_text_that_rows_share_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": one_text(30)}), path, compression="zstd")
    assert in_little_memory(path, 1.5, max_row_mib=16) == "30"


@pytest.mark.slow
def test_parquet_whose_bytes_are_changed_is_read_or_is_one_line(tmp_path: Path) -> None:
    """Arrow may end the process that reads it, which must not be the stage's."""
    whole = tmp_path / "whole.parquet"
    parquet.write_table(pa.table({"text": ["a", "b" * 50, None] * 100, "list": [[1, 2], [], None] * 100}), whole)
    given = whole.read_bytes()
    for place in range(4, len(given) - 8, len(given) // 8):
        path = tmp_path / "rows.parquet"
        path.write_bytes(given[:place] + b"\xff\xff\xff\x7f" + given[place + 4 :])
        said = in_little_memory(path, 4, max_row_mib=16)
        assert said == "300" or said.startswith(f"{path}: "), said
        assert "\n" not in said
