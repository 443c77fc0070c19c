"""Params of the eval stage: rows, backend, answers and tasks."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from stages.common.params import Section


class EvalParams(Section):
    """params.yaml: eval."""

    seed: NonNegativeInt
    backend: Literal["hf", "vllm"]
    rows: PositiveInt
    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    tasks: list[str]
    task_rows: PositiveInt | None
    task_chat_template: bool
