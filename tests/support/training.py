"""What a training leaves in a folder, and token files to train on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.common import tokens

if TYPE_CHECKING:
    from torch import Tensor


def weights(folder: Path) -> "dict[str, Tensor]":
    """Read the tensors of an adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def scores(folder: Path) -> dict[str, Any]:
    """Read metrics/train.json."""
    return json.loads((folder / "metrics" / "train.json").read_text(encoding="utf-8"))


def curve(folder: Path, name: str) -> dict[int, float]:
    """Read a curve: its value at each step."""
    text = (folder / "metrics" / "train" / "plots" / "metrics" / f"{name}.tsv").read_text(encoding="utf-8")
    header, *rows = [line.split("\t") for line in text.splitlines()]
    assert header == ["step", name]
    points = {int(step): float(value) for step, value in rows}
    assert list(points) == sorted(points)
    assert len(points) == len(rows)
    return points


def write_tokens(path: Path, rows: list[tokens.TokenRow], batch_rows: int = 1000) -> Path:
    """Write a token file, in Arrow batches of `batch_rows` rows."""
    table = pa.table([[row.ids for row in rows], [row.mask for row in rows]], schema=tokens.SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, tokens.SCHEMA) as out:
        out.write_table(table, max_chunksize=batch_rows)
    return path


def link(folder: Path, base: Path, prepared: Path) -> Path:
    """Give a workspace a base model and prepared rows."""
    (folder / "models").mkdir()
    (folder / "models" / "base").symlink_to(base)
    (folder / "data").mkdir()
    (folder / "data" / "prepared").symlink_to(prepared)
    return folder
