"""Schemes: which modifiers, layers and bytes follow from the params."""

from pathlib import Path
from typing import Any

import pytest
from quantised import awq_params, linear_layers, tensors

from stages.awq.model import load_model
from stages.awq.schemes import plan_scheme

W8A8 = {"awq.group_size": None, "awq.duo_scaling": None, "awq.smoothing_strength": 0.8}


@pytest.mark.parametrize(
    ("scheme", "changes", "modifiers"),
    [
        ("W4A16_ASYM", {}, ["AWQModifier", "QuantizationModifier"]),
        ("W4A16", {}, ["AWQModifier", "QuantizationModifier"]),
        ("FP8_DYNAMIC", {"awq.group_size": None}, ["AWQModifier", "QuantizationModifier"]),
        ("W8A8", W8A8, ["SmoothQuantModifier", "GPTQModifier"]),
    ],
)
def test_a_scheme_has_its_modifiers_and_takes_every_layer_that_is_not_ignored(
    merged: Path, tmp_path: Path, scheme: str, changes: dict[str, Any], modifiers: list[str]
) -> None:
    network = load_model(merged, "dvc repro merge")
    recipe, expected = plan_scheme(network, awq_params(tmp_path, {"awq.scheme": scheme} | changes))
    assert [type(modifier).__name__ for modifier in recipe] == modifiers
    assert expected.layers == linear_layers(merged)


def test_the_expected_bytes_are_those_of_the_quantised_model(awq: Path, merged: Path, tmp_path: Path) -> None:
    _, expected = plan_scheme(load_model(merged, "dvc repro merge"), awq_params(tmp_path, {}))
    assert expected.size_bytes == sum(tensor.nbytes for tensor in tensors(awq).values())
