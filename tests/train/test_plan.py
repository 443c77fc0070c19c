"""Plan: what is printed before training starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.common import device
from stages.common.params import load_params
from stages.train.params import TrainParams


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, "1 steps of 8 rows: 4 per device x 2 accumulated x 1 processes"),
        ({"train.sft.max_steps": 5}, "5 steps of 8 rows: 4 per device x 2 accumulated x 1 processes"),
        (
            {"train.sft.packing": True, "train.sft.max_length": 32},
            "1 steps of 8 packed rows of at most 32 tokens, 50.0% full: 4 per device x 2 accumulated x 1 processes",
        ),
        (
            {"train.sft.padding_free": True},
            "1 steps of 8 rows without padding: 4 per device x 2 accumulated x 1 processes",
        ),
    ],
)
def test_the_plan_has_model_rows_steps_device_and_memory(
    changes: dict[str, Any], steps: str, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    from stages.train.plan import describe_plan

    built, hardware = trainer(changes), device.choose()
    config = load_params(tmp_path / "params.yaml", "train", TrainParams)
    model, rows, found, where, memory = describe_plan(built, config, hardware, tmp_path / "rows.arrow").splitlines()
    assert model.startswith("lora: PeftModelForCausalLM with ")
    assert rows == "3 rows, 16 tokens per epoch (10 in the loss), longest row 8 tokens"
    assert found == steps
    assert where == f"{hardware.name}, {hardware.dtype}: {hardware.reason}"
    assert memory.startswith("estimated memory: ")


@pytest.mark.parametrize(
    ("number", "expected"), [(43, "43"), (1234, "1.23 k"), (1_210_000, "1.21 M"), (7_610_000_000, "7.61 G")]
)
def test_numbers_are_short(number: float, expected: str) -> None:
    from stages.train.plan import short

    assert short(number) == expected
