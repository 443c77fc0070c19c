"""Split: the outcome of every raw row (train, val or dropped), and which train rows also calibrate AWQ."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.preprocess.duplicates import Groups
from stages.preprocess.params import PreprocessParams
from stages.preprocess.scratch import DROP_REASONS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Outcomes(NamedTuple):
    """The outcome of every row: one entry per row in each array.

    Attributes:
        drop_reason: index of DROP_REASONS, -1 for a row that is kept.
        duplicate_of: index of the earlier row with the same or nearly the same content, -1 where it does not apply.
        position: where the row is in its split, from 0; -1 for a row that is dropped.
        train, val, calibration: whether the row is there.
    """

    drop_reason: "NDArray[Any]"
    duplicate_of: "NDArray[Any]"
    position: "NDArray[Any]"
    train: "NDArray[Any]"
    val: "NDArray[Any]"
    calibration: "NDArray[Any]"


def split_rows(facts: pa.Table, groups: Groups, config: PreprocessParams) -> Outcomes:
    """Drop duplicates where the params say so, then split the rows that are left.

    The hash of its content decides where a row goes, and a near-duplicate goes where the first row of its group goes:
    rows added later do not move earlier rows, and no near-duplicates are on both sides.
    """
    drop_reason = facts["drop_reason"].to_numpy().copy()
    duplicate_of = np.full(len(drop_reason), -1)
    for name, policy, first, itself in (
        ("near_duplicate", config.near_duplicates, groups.similar[groups.equal], groups.equal),
        ("duplicate", config.duplicates, groups.equal, np.arange(len(groups.rows))),
    ):
        if policy == "drop":
            repeated = first != itself
            drop_reason[groups.rows[repeated]] = DROP_REASONS.index(name)
            duplicate_of[groups.rows[repeated]] = groups.rows[first[repeated]]
    draws = facts["split_draw"].to_numpy()[groups.rows][groups.similar]
    val = np.zeros(len(drop_reason), dtype=bool)
    val[groups.rows] = (draws < config.val_fraction) & (drop_reason[groups.rows] < 0)
    train = (drop_reason < 0) & ~val
    ranked = np.argsort(np.where(train, facts["calibration_draw"].to_numpy(), 2.0), kind="stable")
    calibration = np.zeros(len(drop_reason), dtype=bool)
    calibration[ranked[: min(config.calibration_rows, np.count_nonzero(train))]] = True
    position = np.where(train, np.cumsum(train), np.where(val, np.cumsum(val), 0)) - 1
    return Outcomes(drop_reason, duplicate_of, position, train, val, calibration)
