"""Tokens: the token ids and loss masks that preprocess writes, so that no later stage tokenises again.

A token file is an Arrow IPC stream, memory-mapped. It lies beside the readable rows: row i of `train.arrow` is made
from row i of `train.jsonl`.
"""

from pathlib import Path
from typing import NamedTuple

import click
import pyarrow as pa

from stages.common import files

SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "assistant_masks": pa.list_(pa.int8())})


class TokenRow(NamedTuple):
    """One prepared row as the model sees it: token ids, and the loss mask, `mask[i]` 1 if `ids[i]` is in the loss."""

    ids: list[int]
    mask: list[int]


def table(path: Path) -> pa.Table:
    """Open a token file as a table with the columns of SCHEMA. Rows are read from disk when they are used.

    Raises:
        click.ClickException: no such file, no rows in it, or not a token file.
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
