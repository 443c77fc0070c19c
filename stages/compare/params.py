"""Params of the compare stage: the score that decides a row, and the intervals."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from stages.common.params import Section


class CompareParams(Section):
    """params.yaml: compare."""

    score: Literal["exact_match", "normalized_exact_match", "rouge_l", "chrf"]
    resamples: PositiveInt
    confidence: float = Field(gt=0, lt=1)
    seed: NonNegativeInt
