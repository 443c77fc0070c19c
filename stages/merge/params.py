"""Params of the merge stage: the val rows on which the merged model is compared with base plus adapter."""

from pydantic import PositiveInt

from stages.common.params import Section


class MergeParams(Section):
    """params.yaml: merge."""

    rows: PositiveInt
    batch_size: PositiveInt
