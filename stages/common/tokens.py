"""Tokens: the ids and loss masks that preprocess wrote, memory-mapped, so that no later stage tokenises again.

They lie beside the readable rows, row i of `train.arrow` made from row i of `train.jsonl`, as an Arrow IPC stream.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import pyarrow as pa
import pyarrow.compute as pc

from stages.common import files

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "assistant_masks": pa.list_(pa.int8())})


class TokenRow(NamedTuple):
    """One prepared row as the model sees it. `mask[i]` is 1 where token `ids[i]` is learnt."""

    ids: list[int]
    mask: list[int]


def table(path: Path) -> pa.Table:
    """Open a token file without reading it: its columns are pages of the file that come when they are touched.

    Raises:
        click.ClickException: the file is missing, holds no rows, or is not what preprocess writes.
    """
    files.require(path, "dvc repro")
    try:
        found = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError):
        found = None
    if found is None or not found.schema.equals(SCHEMA):
        raise click.ClickException(f"{path}: not a token file of the preprocess stage; run `dvc repro preprocess`")
    if not found.num_rows:
        raise click.ClickException(f"{path}: no rows; more data or another preprocess.val_fraction is needed")
    return found


def read(path: Path, limit: int | None = None) -> list[TokenRow]:
    """Read the first `limit` rows of a token file, or all.

    Raises:
        click.ClickException: see `table`.
    """
    found = table(path).slice(0, limit)
    return [TokenRow(*row) for row in zip(*(column.to_pylist() for column in found.columns), strict=True)]


def labels(found: pa.Table) -> pa.ChunkedArray:
    """Give the labels that a trainer wants, row by row: the token's id where it is learnt, else -100."""
    return pa.chunked_array([_labels(batch) for batch in found.to_batches()])


def supervised(found: pa.Table) -> int:
    """Count the tokens that are learnt."""
    return pc.sum(pc.list_flatten(found["assistant_masks"])).as_py()


def dataset(path: Path) -> "Dataset":
    """Open a token file, memory-mapped, with labels beside it: -100 on every token that is not learnt.

    TRL makes labels from `assistant_masks` only in the preparation that is skipped here; its collator knows no masks.
    """
    from datasets import Dataset

    return Dataset.from_file(str(path)).add_column("labels", labels(table(path)))


def lengths(path: Path) -> list[int]:
    """Give the number of tokens of each row."""
    return pc.list_value_length(table(path)["input_ids"]).to_pylist()


def row_ids(path: Path, rows: list[list[int]]) -> list[str]:
    """Name the raw rows that rows of token ids were made from, by the manifest beside a token file.

    Args:
        path: `train.arrow` or `val.arrow`.
        rows: token ids as they stand in it.
    """
    import pyarrow.parquet as pq

    wanted = {tuple(row) for row in rows}
    positions = [n for n, row in enumerate(read(path)) if tuple(row.ids) in wanted]
    manifest = path.with_name("manifest.parquet")
    if not manifest.exists():
        return [f"{path.name} row {position}" for position in positions]
    chosen = (pc.field("fate") == path.stem) & pc.field("position").isin(positions)
    found = pq.read_table(manifest, columns=["file", "line"], filters=chosen).to_pylist()
    return [f"{row['file']}:{row['line']}" for row in found]


def _labels(batch: pa.RecordBatch) -> pa.ListArray:
    ids, mask = batch["input_ids"], batch["assistant_masks"]
    values = pc.if_else(pc.equal(mask.flatten(), 1), ids.flatten(), pa.scalar(-100, pa.int32()))
    return pa.ListArray.from_arrays(pc.subtract(ids.offsets, ids.offsets[0]), values)
