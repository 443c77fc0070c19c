"""Scratch: encoded rows wait on disk until the last raw row is read; memory keeps about sixty bytes of facts a row.

Which rows are duplicates, and so which split a row goes to, is known only when every row is read.
"""

from array import array
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from stages.common import tokens
from stages.common.drop_reasons import REASONS
from stages.preprocess.duplicates import compare_rows
from stages.preprocess.filters import RowState

DROP_REASONS = tuple(REASONS)
# What is known of each row when it is read. `drop_reason` is an index of DROP_REASONS, -1 for a row that is kept.
FACTS = pa.schema(
    {
        "file": pa.int16(),
        "line": pa.int64(),
        "drop_reason": pa.int8(),
        "detail": pa.string(),
        "content_hash": pa.binary(16),
        "duplicate_key": pa.binary(16),
        "split_draw": pa.float64(),
        "calibration_draw": pa.float64(),
        "tokens": pa.int32(),
        "supervised_tokens": pa.int32(),
        "ends_in_stop": pa.bool_(),
        "turns": pa.int32(),
        "turns_left_out": pa.int32(),
        "other_ends": pa.int32(),
        "tokens_cut": pa.int32(),
        "findings": pa.string(),
    }
)
ROWS_SCHEMA = pa.schema([*FACTS, pa.field("text", pa.binary()), *tokens.SCHEMA])
ROWS, SIGNATURES = "rows.arrow", "signatures"


def store_rows(batches: Iterable[list[RowState]], folder: Path, seed: int) -> pa.Table:
    """Write rows (ROWS) and the MinHash signatures of those that are kept (SIGNATURES) to disk.

    Args:
        batches: every row, in order.
        folder: an empty folder.
        seed: for the split, the calibration rows and the hash functions of MinHash.

    Returns:
        The FACTS of every row, in order.
    """
    facts = []
    with (
        pa.OSFile(str(folder / ROWS), "wb") as file,
        pa.ipc.new_stream(file, ROWS_SCHEMA) as stored,
        (folder / SIGNATURES).open("wb") as signatures,
    ):
        for rows in batches:
            kept = [row for row in rows if not row.drop_reason]
            keys, matrix = compare_rows([row.spoken for row in kept], [row.context for row in kept], seed)
            batch = _record_batch(rows, keys, seed)
            stored.write_batch(batch)
            signatures.write(matrix.tobytes())
            # A copy: a slice would keep the full batch in memory.
            facts.append(pa.concat_batches([batch.select(FACTS.names)]).take(pa.array(range(len(rows)))))
    return pa.Table.from_batches(facts, FACTS)


def _record_batch(rows: list[RowState], keys: list[bytes], seed: int) -> pa.RecordBatch:
    draws = [_draws(row.content_hash, seed) if row.content_hash else (1.0, 1.0) for row in rows]
    key = iter(keys)
    columns = {
        "file": [row.source.number for row in rows],
        "line": [row.line for row in rows],
        "drop_reason": [DROP_REASONS.index(row.drop_reason) if row.drop_reason else -1 for row in rows],
        "detail": [row.detail or None for row in rows],
        "content_hash": [row.content_hash for row in rows],
        "duplicate_key": [None if row.drop_reason else next(key) for row in rows],
        "split_draw": [draw[0] for draw in draws],
        "calibration_draw": [draw[1] for draw in draws],
        "tokens": [len(row.encoded.ids) or None for row in rows],
        "supervised_tokens": [row.encoded.mask.count(1) if row.encoded.ids else None for row in rows],
        "ends_in_stop": [row.ends_in_stop for row in rows],
        "turns": [0 if row.drop_reason or "text" in row.content else len(row.served.spans) for row in rows],
        "turns_left_out": [0 if row.drop_reason else row.served.left_out for row in rows],
        "other_ends": [0 if row.drop_reason else row.served.other_ends for row in rows],
        "tokens_cut": [0 if row.drop_reason else row.tokens_cut for row in rows],
        "findings": [" ".join(row.findings) for row in rows],
        "text": [
            b"" if row.drop_reason else orjson.dumps(row.content, option=orjson.OPT_APPEND_NEWLINE) for row in rows
        ],
        "input_ids": _list_column(
            [b"" if row.drop_reason else array("i", row.encoded.ids).tobytes() for row in rows], pa.int32()
        ),
        "assistant_masks": _list_column([b"" if row.drop_reason else row.encoded.mask for row in rows], pa.int8()),
    }
    return pa.record_batch(columns, schema=ROWS_SCHEMA)


def _list_column(values: list[bytes], kind: pa.DataType) -> pa.ListArray:
    """Make a column of lists from the bytes of each list."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32) // (kind.bit_width // 8)
    return pa.ListArray.from_arrays(
        ends, pa.Array.from_buffers(kind, ends[-1], [None, pa.py_buffer(b"".join(values))])
    )


def _draws(content_hash: bytes, seed: int) -> tuple[float, float]:
    """Map the content of a row to two numbers in [0, 1): for the split, and for the choice of calibration rows."""
    drawn = sha256(f"{seed}:".encode() + content_hash).digest()
    return int.from_bytes(drawn[:6]) / 2**48, int.from_bytes(drawn[6:12]) / 2**48
