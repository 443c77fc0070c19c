"""Prepared: the folder that preprocess writes: readable rows, their tokens beside them, and the manifest."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.common import tokens
from stages.common.ledger import REASONS, Fates

SPLITS = ("train", "val", "calibration")
MANIFEST = pa.schema(
    {
        "file": pa.string(),
        "line": pa.int64(),
        "content_hash": pa.string(),
        "fate": pa.string(),
        "reason": pa.string(),
        "calibration": pa.bool_(),
        "tokens": pa.int32(),
        "supervised_tokens": pa.int32(),
        "truncated": pa.bool_(),
        "findings": pa.string(),
        "twin": pa.string(),
        "position": pa.int64(),
    }
)


def write(waiting: Path, facts: pa.Table, fate: Fates, names: list[str], folder: Path) -> None:
    """Deal the rows that wait on disk to their files, batch by batch.

    Args:
        waiting: the rows that stages.common.ledger gathered.
        facts: what is known of each.
        fate: what becomes of each.
        names: the raw files' names, by their number in `facts`.
        folder: where train, val, calibration (`.jsonl` and `.arrow`) and manifest.parquet go.
    """
    with ExitStack() as stack:
        texts = {name: stack.enter_context((folder / f"{name}.jsonl").open("wb")) for name in SPLITS}
        ids = {
            name: stack.enter_context(pa.ipc.new_stream(str(folder / f"{name}.arrow"), tokens.SCHEMA))
            for name in SPLITS
        }
        manifest = stack.enter_context(pq.ParquetWriter(folder / "manifest.parquet", MANIFEST, compression="zstd"))
        files, lines = facts["file"].to_numpy(), facts["line"].to_numpy()
        start = 0
        for batch in stack.enter_context(pa.ipc.open_stream(pa.OSFile(str(waiting)))):
            part = Fates(*(column[start : start + len(batch)] for column in fate))
            for name in SPLITS:
                chosen = batch.filter(pa.array(getattr(part, name)))
                if len(chosen):
                    texts[name].write(b"".join(chosen["text"].to_pylist()))
                    ids[name].write_batch(chosen.select(tokens.SCHEMA.names))
            twins = [f"{names[files[row]]}:{lines[row]}" if row >= 0 else None for row in part.twin.tolist()]
            manifest.write_batch(_entries(batch, part, names, twins))
            start += len(batch)


def _entries(batch: pa.RecordBatch, part: Fates, names: list[str], twins: list[str | None]) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "file": [names[number] for number in batch["file"].to_pylist()],
        "content_hash": [digest.hex() if digest else None for digest in batch["content_hash"].to_pylist()],
        "fate": np.where(part.train, "train", np.where(part.val, "val", "dropped")).tolist(),
        "reason": [REASONS[code] if code >= 0 else None for code in part.reason.tolist()],
        "calibration": part.calibration,
        "truncated": pc.greater(batch["cut"], 0),
        "twin": twins,
        "position": [place if place >= 0 else None for place in part.position.tolist()],
    }
    kept = ("line", "tokens", "supervised_tokens", "findings")
    columns |= {name: batch[name] for name in kept}
    return pa.record_batch(columns, schema=MANIFEST)
