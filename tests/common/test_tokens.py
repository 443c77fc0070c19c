"""Tokens: the rows that preprocess writes are read row by row from a memory-mapped file; other files are refused."""

from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pytest

from stages.common import files, tokens

ROWS = [
    tokens.TokenRow([5, 6, 7, 8], [0, 0, 1, 1]),
    tokens.TokenRow([9], [1]),
    tokens.TokenRow([], []),
    tokens.TokenRow([1, 0, 2], [0, 1, 0]),
]
OTHER = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


def write(path: Path, rows: list[tokens.TokenRow], batch_rows: int = 2, schema: pa.Schema = tokens.SCHEMA) -> Path:
    columns = [[row.ids for row in rows], [row.mask for row in rows]]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 4])
def test_rows_are_read_in_order(tmp_path: Path, batch_rows: int) -> None:
    path = write(tmp_path / "rows.arrow", ROWS, batch_rows)
    assert tokens.read(path) == ROWS
    for limit in range(1, 6):
        assert tokens.read(path, limit) == ROWS[:limit]


def test_an_empty_batch_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    batch = tokens.table(write(path, ROWS)).to_batches()[0]
    with pa.OSFile(str(tmp_path / "gap.arrow"), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as writer:
        for part in (batch.slice(0, 0), batch, batch.slice(0, 0)):
            writer.write_batch(part)
    assert tokens.read(tmp_path / "gap.arrow") == ROWS[:2]


def test_datasets_opens_the_same_file(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = Dataset.from_file(str(write(tmp_path / "rows.arrow", ROWS)))
    assert [tokens.TokenRow(row["input_ids"], row["assistant_masks"]) for row in rows] == ROWS


def test_opening_a_file_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.arrow", [tokens.TokenRow([7] * 1000, [1] * 1000)] * 1000)
    before = pa.total_allocated_bytes()
    table = tokens.table(path)
    assert table.num_rows == 1000
    assert pa.total_allocated_bytes() - before < 0.01 * path.stat().st_size


@pytest.mark.parametrize("name", ["train", "val", "calibration"])
def test_the_prepared_tokens_are_those_of_the_readable_rows(prepared: Path, base: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = files.read_rows(prepared / f"{name}.jsonl")
    for row, found in zip(rows, tokens.read(prepared / f"{name}.arrow"), strict=True):
        expected = tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), return_dict=True, return_assistant_tokens_mask=True
        )
        assert found == (expected["input_ids"], expected["assistant_masks"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def as_file(path: Path) -> None:
    with pa.OSFile(str(path.with_name("other")), "wb") as sink, pa.ipc.new_file(sink, tokens.SCHEMA) as writer:
        writer.write_table(tokens.table(path))
    path.with_name("other").replace(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text('{"messages": []}\n'),
        lambda path: path.write_bytes(b"\xff" * 4096),
        lambda path: write(path, ROWS, schema=OTHER),
        cut,
        as_file,
        folder,
    ],
    ids=["empty", "JSON", "noise", "other columns", "cut", "Arrow's other format", "folder"],
)
def test_another_file_is_an_error(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = write(tmp_path / "rows.arrow", ROWS * 100, batch_rows=1000)
    spoil(path)
    with pytest.raises(click.ClickException) as raised:
        tokens.read(path)
    assert raised.value.message.startswith(f"{path}: ")
    assert "dvc repro preprocess" in raised.value.message
