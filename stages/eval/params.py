"""Params of the eval stage: rows, backend, answers and tasks."""

import re
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator

from stages.common.params import Section


class AnswerParams(Section):
    """params.yaml: eval.answer: what of an answer is compared with the reference."""

    pattern: str | None

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        """Refuse a pattern that is not a regular expression, before any model is read."""
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class EvalParams(Section):
    """params.yaml: eval."""

    seed: NonNegativeInt
    backend: Literal["hf", "vllm"]
    rows: PositiveInt
    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    answer: AnswerParams
    tasks: list[str]
    task_rows: PositiveInt | None
    task_chat_template: bool
