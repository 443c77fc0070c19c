"""Limits: what each gate lets pass, and the verdict."""

from typing import Any

from pydantic import Field, create_model, model_validator

from stages.common import settings
from stages.common.gates import GATES, Metrics


class Limit(settings.Section):
    """params.yaml: gates.NAME: the least or the greatest value that passes, and why that one."""

    min: float | int | None = None
    max: float | int | None = None
    reason: str = Field(min_length=1)

    @model_validator(mode="after")
    def one_side(self) -> "Limit":
        """Refuse a limit with two sides or none."""
        if (self.min is None) == (self.max is None):
            raise ValueError("needs either min or max")
        return self


FIELDS: dict[str, Any] = dict.fromkeys(GATES, (Limit, ...))
# params.yaml: gates, one limit for each.
GatesParams = create_model("GatesParams", __base__=settings.Section, **FIELDS)


def judge(metrics: Metrics, limits: settings.Section) -> dict[str, dict[str, Any]]:
    """Give the verdict of every gate.

    Args:
        metrics: what the stages measured, by the name of the file.
        limits: a `GatesParams`.

    Returns:
        For each gate value, limit, bound (min or max), margin, passed and reason. The margin is the distance from
        value to limit, below 0 where the gate failed. What these rows cannot tell has no value, and passes.
    """
    verdicts = {}
    for name, gate in GATES.items():
        limit, value = getattr(limits, name), gate.value(metrics)
        bound, number = ("min", limit.min) if limit.min is not None else ("max", limit.max)
        # Rounded, as 1.05 - 1.01 is not 0.04 in binary; metrics have 6 digits, so no failure can round to 0.
        margin = None if value is None else round(value - number if bound == "min" else number - value, 12)
        verdicts[name] = {
            "value": value,
            "limit": number,
            "bound": bound,
            "margin": margin,
            "passed": margin is None or margin >= 0,
            "reason": limit.reason,
        }
    return verdicts
