"""Params of the merge stage: what the merged weights are stored in, and the rows that show what that costs."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from stages.common.params import Section


class MergeParams(Section):
    """params.yaml: merge."""

    dtype: Literal["base", "float32"]
    seed: NonNegativeInt | None
    rows: PositiveInt
    batch_size: PositiveInt
