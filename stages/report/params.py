"""Params of the report stage: the limit of each gate, and its reason."""

from typing import Any

from pydantic import Field, create_model, model_validator

from stages.common.params import Section
from stages.report.gates import GATES


class Limit(Section):
    """params.yaml: gates.NAME: the lowest (`min`) or highest (`max`) value that passes, and the reason."""

    min: float | int | None = None
    max: float | int | None = None
    reason: str = Field(min_length=1)

    @model_validator(mode="after")
    def one_side(self) -> "Limit":
        """Refuse a limit with both sides, or with none."""
        if (self.min is None) == (self.max is None):
            raise ValueError("needs either min or max")
        return self


FIELDS: dict[str, Any] = dict.fromkeys(GATES, (Limit | None, ...))
# params.yaml: gates, one limit for each gate; null: the gate is not judged.
GatesParams = create_model("GatesParams", __base__=Section, **FIELDS)
