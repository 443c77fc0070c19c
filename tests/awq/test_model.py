"""Model: weights are rounded once, from float32 to their few bits, and the stored dtype changes none of these."""

from pathlib import Path

import pytest
from adapters import adapt, load, merge

from stages.awq.model import load_merged, round_weights


@pytest.mark.parametrize(
    ("scheme", "group"), [("W4A16_ASYM", 32), ("W4A16", 32), ("W8A8", None), ("FP8_DYNAMIC", None)]
)
def test_the_bits_are_those_of_the_float32_weights_and_the_stored_scales(scheme: str, group: int | None) -> None:
    import torch
    from compressed_tensors.quantization import preset_name_to_scheme, quantize

    torch.manual_seed(7)
    how = preset_name_to_scheme(scheme, targets=["Linear"])
    if group:
        how.weights.group_size = group
    layer = torch.nn.Linear(256, 64, bias=False)
    exact = layer.weight.data.clone()
    groups = exact.reshape(64, -1, group or 256)
    low, high = groups.amin(-1), groups.amax(-1)
    half = torch.maximum(low.abs(), high.abs())
    steps = {"W4A16_ASYM": (high - low) / 15, "W4A16": half / 7.5, "W8A8": half / 127.5, "FP8_DYNAMIC": half / 448}
    layer.weight_scale = torch.nn.Parameter(steps[scheme].float())
    zero = torch.round(-low / layer.weight_scale.data) - 8 if scheme == "W4A16_ASYM" else torch.zeros_like(low)
    layer.weight_zero_point = torch.nn.Parameter(zero.to(torch.int8), requires_grad=False)
    layer.quantization_scheme = how
    round_weights(layer, torch.bfloat16)
    scale = layer.weight_scale.data.bfloat16()
    bits = quantize(layer.weight.data.bfloat16(), scale, layer.weight_zero_point.data, how.weights)
    wanted = quantize(exact, scale.float(), layer.weight_zero_point.data, how.weights)
    away = bits.float().sub(wanted.float()).abs()
    assert away.max() <= (scheme == "W8A8")  # there by one step, and seldom: 127 steps are 7 of bfloat16's 8 bits
    assert away.ne(0).float().mean() < 0.03
    assert len(wanted.float().unique()) > 10  # they differ, so that equal bits say something
    if group:  # from weights in bfloat16, some of the 16,384 are rounded to another number
        twice = quantize(exact.bfloat16(), scale, layer.weight_zero_point.data, how.weights)
        assert not twice.float().equal(wanted.float())


def test_an_adapter_too_small_for_bfloat16_is_in_the_weights_that_awq_reads(base: Path, tmp_path: Path) -> None:
    import torch

    adapter = adapt(base, tmp_path / "adapter", target_modules=["down_proj"], r=1, lora_alpha=1e-4)
    layer = "model.layers.0.mlp.down_proj.weight"
    before = load(base).state_dict()[layer]
    exact = load_merged(load(base, torch.bfloat16), adapter).state_dict()[layer]
    assert exact.dtype == torch.float32
    assert exact.sub(before).ne(0).float().mean() > 0.9
    rounded = merge(base, adapter, tmp_path / "merged")[layer].float()
    assert rounded.sub(before).ne(0).float().mean() < 0.1
