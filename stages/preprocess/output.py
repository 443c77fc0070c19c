"""Output: the folder data/prepared, with readable rows, their tokens beside them, and the manifest."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.common import tokens
from stages.preprocess.scratch import DROP_REASONS
from stages.preprocess.split import Outcomes

SPLITS = ("train", "val", "calibration")
MANIFEST = pa.schema(
    {
        "file": pa.string(),
        "line": pa.int64(),
        "content_hash": pa.string(),
        "outcome": pa.string(),
        "reason": pa.string(),
        "calibration": pa.bool_(),
        "tokens": pa.int32(),
        "supervised_tokens": pa.int32(),
        "truncated": pa.bool_(),
        "findings": pa.string(),
        "duplicate_of": pa.string(),
        "position": pa.int64(),
    }
)


def write_prepared(stored: Path, facts: pa.Table, outcomes: Outcomes, names: list[str], folder: Path) -> None:
    """Write each row to the files of its split, batch by batch, and a line about every raw row to the manifest.

    Args:
        stored: the rows that stages.preprocess.scratch stored.
        facts: their facts.
        outcomes: their outcomes.
        names: the names of the raw files, by their number in `facts`.
        folder: gets train, val and calibration (`.jsonl` and `.arrow`) and manifest.parquet.
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
        for batch in stack.enter_context(pa.ipc.open_stream(pa.OSFile(str(stored)))):
            part = Outcomes(*(column[start : start + len(batch)] for column in outcomes))
            for name in SPLITS:
                chosen = batch.filter(pa.array(getattr(part, name)))
                if len(chosen):
                    texts[name].write(_joined(chosen["text"]))
                    ids[name].write_batch(chosen.select(tokens.SCHEMA.names))
            originals = [
                f"{names[files[row]]}:{lines[row]}" if row >= 0 else None for row in part.duplicate_of.tolist()
            ]
            manifest.write_batch(_entries(batch, part, names, originals))
            start += len(batch)


def _joined(texts: pa.BinaryArray) -> memoryview:
    """Return the bytes of all values, which lie one after the other in memory."""
    starts = np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(texts.buffers()[2])[starts[0] : starts[-1]]


def _entries(batch: pa.RecordBatch, part: Outcomes, names: list[str], originals: list[str | None]) -> pa.RecordBatch:
    columns: dict[str, Any] = {name: batch[name] for name in ("line", "tokens", "supervised_tokens", "findings")}
    columns |= {
        "file": [names[number] for number in batch["file"].to_pylist()],
        "content_hash": [digest.hex() if digest else None for digest in batch["content_hash"].to_pylist()],
        "outcome": np.where(part.train, "train", np.where(part.val, "val", "dropped")).tolist(),
        "reason": [DROP_REASONS[code] if code >= 0 else None for code in part.drop_reason.tolist()],
        "calibration": part.calibration,
        "truncated": pc.greater(batch["tokens_cut"], 0),
        "duplicate_of": originals,
        "position": [position if position >= 0 else None for position in part.position.tolist()],
    }
    return pa.record_batch(columns, schema=MANIFEST)
