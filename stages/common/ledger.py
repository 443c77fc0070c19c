"""Ledger: what becomes of every raw row, and why.

Rows and tokens wait on disk until the last one is read; in memory lie some sixty bytes for each row.
"""

from collections.abc import Iterable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from stages.common import checks, tokens, twins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.common.checks import PreprocessParams
    from stages.common.drafts import Draft

REASONS = tuple(checks.REASONS)
# What is known of a row when it has been read; `reason` is a place in REASONS, -1 for a row that is kept so far.
FACTS = pa.schema(
    {
        "file": pa.int16(),
        "line": pa.int64(),
        "reason": pa.int8(),
        "content_hash": pa.binary(16),
        "sameness": pa.binary(16),
        "split_draw": pa.float64(),
        "calibration_draw": pa.float64(),
        "tokens": pa.int32(),
        "supervised_tokens": pa.int32(),
        "stops": pa.bool_(),
        "cut": pa.int32(),
        "findings": pa.string(),
    }
)
WAITING = pa.schema([*FACTS, pa.field("text", pa.binary()), *tokens.SCHEMA])
ROWS, SIGNATURES = "rows.arrow", "signatures"


class Fates(NamedTuple):
    """What became of each row: one entry per row in every array, -1 where it does not apply."""

    reason: "NDArray[Any]"
    twin: "NDArray[Any]"
    position: "NDArray[Any]"
    train: "NDArray[Any]"
    val: "NDArray[Any]"
    calibration: "NDArray[Any]"


def gather(batches: "Iterable[list[Draft]]", scratch: Path, seed: int) -> pa.Table:
    """Write rows and MinHash signatures to `scratch` as they come.

    Args:
        batches: every row, in order.
        scratch: an empty folder.
        seed: draws the split, the calibration rows and the hash functions.

    Returns:
        The FACTS of every row, in order.
    """
    facts = []
    with (
        pa.OSFile(str(scratch / ROWS), "wb") as file,
        pa.ipc.new_stream(file, WAITING) as rows,
        (scratch / SIGNATURES).open("wb") as signatures,
    ):
        for drafts in batches:
            batch = _batch(drafts, seed)
            rows.write_batch(batch)
            # A copy: a slice would keep the whole batch in memory.
            facts.append(pa.concat_batches([batch.select(FACTS.names)]).take(pa.array(range(len(drafts)))))
            kept = [draft for draft in drafts if not draft.reason]
            if kept:
                matrix = twins.signatures([draft.said for draft in kept], [draft.orders for draft in kept], seed)
                signatures.write(matrix.tobytes())
    return pa.Table.from_batches(facts, FACTS)


def settle(facts: pa.Table, scratch: Path, config: "PreprocessParams") -> Fates:
    """Find twins, then deal the rows that are left to train and val.

    A row goes where the hash of its content sends it, a twin where the first of its group goes: rows added later move
    no earlier one, and no twins stand on both sides.
    """
    reason = facts["reason"].to_numpy().copy()
    alive = np.flatnonzero(reason < 0)
    same = twins.first_equal(_keys(facts["sameness"].combine_chunks().take(pa.array(alive))))
    like = twins.first_similar(scratch / SIGNATURES, len(alive), config.near_duplicate_similarity)
    twin = np.full(len(reason), -1)
    for name, policy, first in (
        ("near_duplicate", config.near_duplicates, like[same]),
        ("duplicate", config.duplicates, same),
    ):
        other = first != (np.arange(len(alive)) if name == "duplicate" else same)
        if policy == "drop":
            reason[alive[other]] = REASONS.index(name)
            twin[alive[other]] = alive[first[other]]
    draws = facts["split_draw"].to_numpy()[alive][like]
    val = np.zeros(len(reason), dtype=bool)
    val[alive] = (draws < config.val_fraction) & (reason[alive] < 0)
    train = (reason < 0) & ~val
    ranked = np.argsort(np.where(train, facts["calibration_draw"].to_numpy(), 2.0), kind="stable")
    calibration = np.zeros(len(reason), dtype=bool)
    calibration[ranked[: min(config.calibration_rows, np.count_nonzero(train))]] = True
    position = np.where(train, np.cumsum(train), np.where(val, np.cumsum(val), 0)) - 1
    return Fates(reason, twin, position, train, val, calibration)


def _batch(drafts: "list[Draft]", seed: int) -> pa.RecordBatch:
    draws = [_draws(draft.content_hash, seed) if draft.content_hash else (1.0, 1.0) for draft in drafts]
    columns = {
        "file": [draft.file for draft in drafts],
        "line": [draft.line for draft in drafts],
        "reason": [REASONS.index(draft.reason) if draft.reason else -1 for draft in drafts],
        "content_hash": [draft.content_hash for draft in drafts],
        "split_draw": [draw[0] for draw in draws],
        "calibration_draw": [draw[1] for draw in draws],
        "sameness": [None if draft.reason else _sameness(draft) for draft in drafts],
        "tokens": [len(draft.encoded.ids) or None for draft in drafts],
        "supervised_tokens": [draft.encoded.mask.count(1) if draft.encoded.ids else None for draft in drafts],
        "stops": [draft.stops for draft in drafts],
        "cut": [0 if draft.reason else draft.cut for draft in drafts],
        "findings": [" ".join(draft.findings) for draft in drafts],
        "text": [
            b"" if draft.reason else orjson.dumps(draft.row, option=orjson.OPT_APPEND_NEWLINE) for draft in drafts
        ],
        "input_ids": _lists(
            [b"" if draft.reason else np.array(draft.encoded.ids, np.int32).tobytes() for draft in drafts], pa.int32()
        ),
        "assistant_masks": _lists([b"" if draft.reason else draft.encoded.mask for draft in drafts], pa.int8()),
    }
    return pa.record_batch(columns, schema=WAITING)


def _lists(values: list[bytes], kind: pa.DataType) -> pa.ListArray:
    """Make a column of lists from the bytes of each."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32) // (kind.bit_width // 8)
    return pa.ListArray.from_arrays(
        ends, pa.Array.from_buffers(kind, ends[-1], [None, pa.py_buffer(b"".join(values))])
    )


def _sameness(draft: "Draft") -> bytes:
    return blake2b(draft.said, digest_size=16, key=draft.orders.to_bytes(8)).digest()


def _keys(column: pa.FixedSizeBinaryArray) -> "NDArray[np.uint64]":
    return np.frombuffer(column.buffers()[1], dtype=np.uint64, count=2 * len(column)).reshape(-1, 2)


def _draws(digest: bytes, seed: int) -> tuple[float, float]:
    """Place a row's content on [0, 1) twice: for the split, and for the choice of calibration rows."""
    drawn = sha256(f"{seed}:".encode() + digest).digest()
    return int.from_bytes(drawn[:6]) / 2**48, int.from_bytes(drawn[6:12]) / 2**48
