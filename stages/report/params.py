"""Params of the report stage: the limit of each gate, and its reason."""

from typing import Any

from pydantic import Field, FiniteFloat, create_model, model_validator

from stages.common.params import Section
from stages.report.gates import GATES


class Limit(Section):
    """params.yaml: gates.NAME: the lowest (`min`) or highest (`max`) value that passes, and the reason.

    Or `not_worse_than`: a git revision, whose run sets the limit.
    """

    min: FiniteFloat | int | None = None
    max: FiniteFloat | int | None = None
    not_worse_than: str | None = Field(default=None, min_length=1)
    reason: str = Field(min_length=1)

    @model_validator(mode="after")
    def one_side(self) -> "Limit":
        """Refuse a limit with several sides, or with none."""
        if [self.min, self.max, self.not_worse_than].count(None) != 2:
            raise ValueError("needs either min, max or not_worse_than")
        return self


FIELDS: dict[str, Any] = dict.fromkeys(GATES, (Limit | None, ...))
# params.yaml: gates, one limit for each gate; null: the gate is not judged.
GatesParams = create_model("GatesParams", __base__=Section, **FIELDS)
